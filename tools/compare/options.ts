/**
 * The options of `deno task compare`.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { refuse, UsageError } from "../testing/run_tool.ts";
import { NAMES } from "./servers.ts";

/** What the help says of each; `with` has commands by the names of servers. */
export type Options = ReturnType<typeof parseOptions>;

export const HELP = `\
Compares echo servers side by side, in interleaved rounds.

Usage: deno task compare [options]

      --rounds N       rounds, each with every server (7)
      --clients N      clients at once (64)
      --seconds N      how long to load a server, or to hold idle clients (2)
      --warm-up N      seconds of load that come first (1.5)
      --held N         instead of load: hold N idle clients, measure the memory
                       that each takes, and let all of them finish
      --only NAME,...  run only some of the built-in servers, which are
                       ${NAMES.join(", ")}
      --with NAME='COMMAND'
                       add a server: a shell command with {port} for the port;
                       may be repeated
      --svg FILE       also draw the results
  -h, --help           print this and exit`;

const DECIMAL = /^\d+(\.\d+)?$/;

/**
 * Reads the arguments.
 *
 * @throws {UsageError} If an argument is unknown or a value is wrong.
 */
export function parseOptions(args: string[]) {
  const options = parseArgs(args, {
    string: ["rounds", "clients", "seconds", "warm-up", "held", "only"]
      .concat("with", "svg"),
    collect: ["with"],
    default: {
      rounds: "7",
      clients: "64",
      seconds: "2",
      "warm-up": "1.5",
      held: "0",
      only: NAMES.join(","),
    },
    unknown: refuse,
  });
  const number = (name: string, min: number, pattern = /^\d+$/): number => {
    const text = `${options[name]}`;
    if (pattern.test(text) && Number(text) >= min) return Number(text);
    const kind = pattern === DECIMAL ? "a number" : "a whole number";
    const given = JSON.stringify(text);
    throw new UsageError(`--${name}: ${given} is not ${kind} from ${min}`);
  };
  const only: string[] = options.only.split(",");
  const stranger = only.find((name) => !NAMES.includes(name));
  if (stranger !== undefined) {
    const given = JSON.stringify(stranger);
    throw new UsageError(`--only: ${given} is not one of ${NAMES.join(", ")}`);
  }
  if (options.svg === "") throw new UsageError("--svg: needs a file");
  return {
    rounds: number("rounds", 1),
    clients: number("clients", 1),
    seconds: number("seconds", 0.1, DECIMAL),
    warmUp: number("warm-up", 0, DECIMAL),
    held: number("held", 0),
    only,
    with: new Map((options.with as unknown as string[]).map(parseWith)),
    svg: options.svg as string | undefined,
  };
}

function parseWith(text: string): [name: string, command: string] {
  const [, name, command] = text.match(/^([^=]+)=(.*\{port\}.*)$/s) ?? [];
  if (command !== undefined) return [name, command];
  const given = JSON.stringify(text);
  throw new UsageError(`--with: ${given} is not NAME=COMMAND with {port}`);
}
