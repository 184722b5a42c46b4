/**
 * The options of `deno task compare`.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { NAMES } from "./servers.ts";

/** A server that `--with` adds. */
export interface Extra {
  name: string;
  /** A shell command, with `{port}` for the port. */
  command: string;
}

export interface Options {
  rounds: number;
  clients: number;
  seconds: number;
  warmUp: number;
  /** How many idle clients to hold; 0 measures exchanges instead. */
  held: number;
  /** Names of the built-in servers to run. */
  only: string[];
  with: Extra[];
  json: boolean;
  help: boolean;
}

/** What is wrong with the arguments, in one line. */
export class UsageError extends Error {
  override name = "UsageError";
}

const DEFAULTS: Record<string, string> = {
  rounds: "7",
  clients: "64",
  seconds: "2",
  "warm-up": "1.5",
  held: "none",
};
const FLAGS = ["json", "help"];

export const HELP = `\
Compares echo servers side by side, in interleaved rounds.

Usage: deno task compare [options]

      --rounds N       rounds, each with every server (${DEFAULTS.rounds})
      --clients N      clients at once (${DEFAULTS.clients})
      --seconds N      how long to load a server, or to hold idle clients (${DEFAULTS.seconds})
      --warm-up N      seconds of load that come first (${DEFAULTS["warm-up"]})
      --held N         instead of load: hold N idle clients, measure the memory
                       that each takes, and let all of them finish
      --only NAME,...  run only some of the built-in servers, which are
                       ${NAMES.join(", ")}
      --with NAME='COMMAND'
                       add a server: a shell command with {port} for the port;
                       may be repeated
      --json           print every round as JSON instead of a table
  -h, --help           print this and exit`;

/**
 * Reads the arguments.
 *
 * @throws {UsageError} If an argument is unknown or a value is wrong.
 */
export function parseOptions(args: string[]): Options {
  const unknown: string[] = [];
  const parsed: Record<string, unknown> = parseArgs(args, {
    string: [...Object.keys(DEFAULTS), "only", "with"],
    boolean: FLAGS,
    collect: ["with"],
    alias: { h: "help" },
    default: { ...DEFAULTS, only: NAMES.join(",") },
    unknown: (arg: string) => unknown.push(arg) === 0,
  });
  if (unknown.length > 0) {
    const kind = unknown[0].startsWith("-") ? "option" : "argument";
    throw new UsageError(`unknown ${kind} ${JSON.stringify(unknown[0])}`);
  }
  const text = (name: string) => parsed[name] as string;
  return {
    rounds: whole("rounds", text("rounds"), 1),
    clients: whole("clients", text("clients"), 1),
    seconds: decimal("seconds", text("seconds"), 0.1),
    warmUp: decimal("warm-up", text("warm-up"), 0),
    held: text("held") === "none" ? 0 : whole("held", text("held"), 1),
    only: parseOnly(text("only")),
    with: parseWith(parsed.with as string[]),
    json: parsed.json as boolean,
    help: parsed.help as boolean,
  };
}

function whole(option: string, text: string, min: number): number {
  const n = /^\d+$/.test(text) ? Number(text) : NaN;
  return within(option, text, n, "a whole number", min, 100_000);
}

function decimal(option: string, text: string, min: number): number {
  const n = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
  return within(option, text, n, "a number", min, 3600);
}

function within(
  option: string,
  text: string,
  n: number,
  kind: string,
  min: number,
  max: number,
): number {
  if (n >= min && n <= max) return n;
  throw new UsageError(
    `--${option}: ${JSON.stringify(text)} is not ${kind} from ${min} to ${max}`,
  );
}

function parseOnly(text: string): string[] {
  const only = text.split(",");
  const wrong = only.find((name) => !NAMES.includes(name));
  if (wrong === undefined) return only;
  throw new UsageError(
    `--only: ${JSON.stringify(wrong)} is not one of ${NAMES.join(", ")}`,
  );
}

function parseWith(texts: string[]): Extra[] {
  const taken = new Set(NAMES);
  return texts.map((text) => {
    const [, name, command] = text.match(/^([\w .-]+)=([^]*)$/) ?? [];
    if (name === undefined) {
      throw new UsageError(
        `--with: ${JSON.stringify(text)} is not NAME=COMMAND`,
      );
    }
    if (taken.has(name)) {
      throw new UsageError(`--with: there is already a server named ${name}`);
    }
    if (!command.includes("{port}")) {
      throw new UsageError(`--with: the command of ${name} has no {port}`);
    }
    taken.add(name);
    return { name, command };
  });
}
