/**
 * The command: listens on a port and runs the echo service of `server.ts`
 * until it gets SIGINT or SIGTERM.
 *
 * ```sh
 * deno run --allow-net main.ts --help
 * ```
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import denoJson from "./deno.json" with { type: "json" };
import { type Exchange, type Mode, type Outcome, serve } from "./server.ts";

const HELP = `echo-server ${denoJson.version}
Greets each TCP client, reads once, echoes what it read and closes.

Usage: echo-server [options]

  -p, --port N           port to listen on, 0 takes a free one (30000)
      --host HOST        address to listen on: IPv4, IPv6 or a name (0.0.0.0)
      --greeting TEXT    sent first; knows \\r \\n \\t \\0 \\\\ \\xHH; may be empty
                         (Hello World!\\r\\n)
      --max-bytes N      most bytes that the one read takes (1024)
      --timeout SECONDS  for one whole exchange, 0 is never (60)
      --max-connections N
                         hold at most so many, more wait in the kernel's queue
      --mode MODE        concurrent, serial or events (concurrent)
      --grace SECONDS    how long exchanges may go on after SIGINT or SIGTERM (10)
      --reuse-port       share the port with other such processes (Linux)
  -v, --verbose          log every finished exchange
      --json             log JSON lines instead of text
  -h, --help             print this and exit
  -V, --version          print the version and exit`;

/**
 * What the command was asked to do, as {@linkcode parseOptions} returns it.
 *
 * @example
 * ```ts
 * import { type Options, parseOptions } from "@diary/echo-server/main";
 * import { assertEquals } from "@std/assert";
 *
 * const options: Options = parseOptions([]);
 * assertEquals(options.grace, 10_000);
 * ```
 */
export interface Options {
  /** Port to listen on, 0 to 65535. */
  port: number;
  /** Address or name to listen on. */
  host: string;
  /** What each client is sent first. */
  greeting: Uint8Array;
  /** Most bytes that the one read takes. */
  maxBytes: number;
  /** Milliseconds for a whole exchange; 0 is never. */
  timeout: number;
  /** Most connections held at once. */
  maxConnections: number;
  /** How the connections share the program. */
  mode: Mode;
  /** Milliseconds that exchanges may go on after a signal. */
  grace: number;
  /** Whether other processes may listen on the same port. */
  reusePort: boolean;
  /** Whether to log every finished exchange. */
  verbose: boolean;
  /** Whether to log JSON lines. */
  json: boolean;
  /** Whether to print the help text and exit. */
  help: boolean;
  /** Whether to print the version and exit. */
  version: boolean;
}

/**
 * What is wrong with the command's arguments, in one line.
 *
 * @example
 * ```ts
 * import { parseOptions, UsageError } from "@diary/echo-server/main";
 * import { assertThrows } from "@std/assert";
 *
 * assertThrows(() => parseOptions(["--port", "65536"]), UsageError, "--port");
 * ```
 */
export class UsageError extends Error {
  /** Always `UsageError`. */
  override name = "UsageError";
}

/** The options that take a value, with their defaults. */
const VALUES: Record<string, string> = {
  "port": "30000",
  "host": "0.0.0.0",
  "greeting": String.raw`Hello World!\r\n`,
  "max-bytes": "1024",
  "timeout": "60",
  "max-connections": "none",
  "mode": "concurrent",
  "grace": "10",
};
const FLAGS = ["reuse-port", "verbose", "json", "help", "version"];
const ALIASES = { p: "port", v: "verbose", h: "help", V: "version" };
/** The longest that a timer can wait. */
const MAX_SECONDS = 2_147_483;
const WHOLE = { name: "a whole number", pattern: /^[0-9]+$/ };
const DECIMAL = { name: "a number", pattern: /^[0-9]+(\.[0-9]+)?$/ };
type Kind = typeof WHOLE;
const MODES = ["concurrent", "serial", "events"];

/**
 * Reads the command's arguments.
 *
 * @param args The arguments, as in `Deno.args`.
 * @returns The options, durations in milliseconds.
 * @throws {UsageError} If an argument is unknown or a value is wrong.
 *
 * @example
 * ```ts
 * import { parseOptions } from "@diary/echo-server/main";
 * import { assertEquals } from "@std/assert";
 *
 * const { port, timeout } = parseOptions(["-p", "0", "--timeout", "2.5"]);
 * assertEquals(port, 0);
 * assertEquals(timeout, 2500);
 * ```
 */
export function parseOptions(args: string[]): Options {
  const unknown: string[] = [];
  const parsed: Record<string, unknown> = parseArgs(joinValues(args), {
    string: Object.keys(VALUES),
    boolean: FLAGS,
    collect: Object.keys(VALUES),
    alias: ALIASES,
    unknown: (arg: string) => unknown.push(arg) === 0,
  });

  const value = (name: string): string => {
    const [given = VALUES[name], another] = parsed[name] as string[];
    if (another !== undefined) fail(name, "is given more than once");
    return given;
  };
  const number = (name: string, kind: Kind, min: number, max: number) => {
    const text = value(name);
    const n = kind.pattern.test(text) ? Number(text) : NaN;
    if (n >= min && n <= max) return n;
    return fail(
      name,
      `${quote(text)} is not ${kind.name} from ${min} to ${max}`,
    );
  };
  const flag = (name: string): boolean => {
    if (typeof parsed[name] !== "boolean") fail(name, "takes no value");
    return parsed[name] as boolean;
  };

  const options: Options = {
    port: number("port", WHOLE, 0, 65_535),
    host: value("host") || fail("host", "must not be empty"),
    greeting: unescape(value("greeting")),
    maxBytes: number("max-bytes", WHOLE, 1, 2 ** 30),
    timeout: 1000 * number("timeout", DECIMAL, 0, MAX_SECONDS),
    maxConnections: value("max-connections") === "none"
      ? Infinity
      : number("max-connections", WHOLE, 1, 1_000_000_000),
    mode: value("mode") as Mode,
    grace: 1000 * number("grace", DECIMAL, 0, MAX_SECONDS),
    reusePort: flag("reuse-port"),
    verbose: flag("verbose"),
    json: flag("json"),
    help: flag("help"),
    version: flag("version"),
  };
  if (!MODES.includes(options.mode)) {
    fail("mode", `${quote(options.mode)} is not one of ${MODES.join(", ")}`);
  }
  unknown.push(...(parsed._ as string[]));
  if (unknown.length > 0) {
    const what = unknown[0].startsWith("-") ? "option" : "argument";
    throw new UsageError(`unknown ${what} ${quote(unknown[0])}`);
  }
  return options;
}

function fail(option: string, why: string): never {
  throw new UsageError(`--${option}: ${why}`);
}

/**
 * Joins each value to its option: from an argument of its own, `parseArgs`
 * takes no value that is empty or starts with a hyphen.
 */
function joinValues(args: string[]): string[] {
  const joined: string[] = [];
  const rest = [...args];
  for (let arg; (arg = rest.shift()) !== undefined;) {
    const flag = arg.match(/^--([^=]+)=/)?.[1];
    if (flag && FLAGS.includes(flag)) fail(flag, "takes no value");
    const name = arg === "-p" ? "port" : arg.replace(/^--/, "");
    if (arg.startsWith("-") && Object.hasOwn(VALUES, name)) {
      joined.push(`--${name}=${rest.shift() ?? fail(name, "needs a value")}`);
    } else if (arg === "--") {
      return [...joined, arg, ...rest];
    } else {
      joined.push(arg);
    }
  }
  return joined;
}

const ESCAPES: Record<string, string> = {
  "\\r": "\r",
  "\\n": "\n",
  "\\t": "\t",
  "\\0": "\0",
  "\\\\": "\\",
};

/** The bytes of a greeting: UTF-8, but for what `\xHH` says. */
function unescape(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const [part] of text.matchAll(/\\(x[0-9a-fA-F]{2}|[^])?|[^\\]+/g)) {
    if (part.startsWith("\\x") && part.length === 4) {
      bytes.push(parseInt(part.slice(2), 16));
    } else if (part.startsWith("\\")) {
      const char = ESCAPES[part] ??
        fail("greeting", `${quote(part)} is not an escape`);
      bytes.push(char.charCodeAt(0));
    } else {
      bytes.push(...new TextEncoder().encode(part));
    }
  }
  return new Uint8Array(bytes);
}

/** In quotes, and on one line whatever it holds. */
function quote(text: string): string {
  return JSON.stringify(text).replace(
    /[\x7f-\x9f\u2028\u2029]/g,
    (char) => "\\u" + char.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

/** An address as people write it: `127.0.0.1:30000`, `[::1]:30000`, a path. */
function format(addr: Deno.Addr): string {
  if ("hostname" in addr) {
    const { hostname, port } = addr;
    return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  }
  return "path" in addr ? addr.path : addr.transport;
}

/** What a line of the log tells, besides the time. */
type Entry = { event: string } & Record<string, string | number>;

/** Writes a line of the log to stderr: `time event key=value …`, or JSON. */
function log(json: boolean, { event, ...fields }: Entry): void {
  const time = new Date().toISOString();
  if (json) return console.error(JSON.stringify({ time, event, ...fields }));
  const texts = Object.entries(fields).map(([key, value]) =>
    `${key}=${/^\S+$/.test(`${value}`) ? value : quote(`${value}`)}`
  );
  console.error([time, event, ...texts].join(" "));
}

/** Why the system does not let us listen, in plain words. */
function whyNot(error: unknown): string {
  if (error instanceof Deno.errors.NotCapable) {
    return "run it with --allow-net";
  }
  if (error instanceof Deno.errors.AddrInUse) return "the port is in use";
  if (error instanceof Deno.errors.AddrNotAvailable) {
    return "this machine does not have that address";
  }
  if (error instanceof Deno.errors.PermissionDenied) {
    return "no permission for this port";
  }
  return oneLine(error);
}

function oneLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s+/g, " ");
}

/** Prints one line on stderr and ends the process. */
function exit(code: number, line: string): never {
  console.error(`echo-server: ${line}`);
  Deno.exit(code);
}

function optionsOrExit(args: string[]): Options {
  try {
    return parseOptions(args);
  } catch (error) {
    if (error instanceof UsageError) exit(2, error.message);
    throw error;
  }
}

function listenOrExit({ host, port, reusePort }: Options): Deno.TcpListener {
  if (reusePort && Deno.build.os !== "linux") {
    exit(1, `--reuse-port: only Linux shares a port, this is ${Deno.build.os}`);
  }
  try {
    return Deno.listen({
      hostname: host,
      port,
      tcpBacklog: 4096, // a crowd waits there; the kernel lowers it to its own
      ...(reusePort && { reusePort }),
    });
  } catch (error) {
    const addr = format({ transport: "tcp", hostname: host, port });
    exit(1, `cannot listen on ${quote(addr).slice(1, -1)}: ${whyNot(error)}`);
  }
}

/** Passes on the first of the calls that come within one second. */
function onceASecond(tell: (error: unknown) => void): (error: unknown) => void {
  let last = -Infinity;
  return (error) => {
    if (performance.now() < last + 1000) return;
    last = performance.now();
    tell(error);
  };
}

async function main(): Promise<void> {
  const options = optionsOrExit(Deno.args);
  if (options.help) return console.log(HELP);
  if (options.version) return console.log(`echo-server ${denoJson.version}`);

  const counts: Record<Outcome, number> = {
    echoed: 0,
    eof: 0,
    timeout: 0,
    reset: 0,
    shutdown: 0,
    error: 0,
  };
  const graceEnds = new AbortController();
  const server = serve(listenOrExit(options), {
    ...options,
    signal: graceEnds.signal,
    onExchange(exchange) {
      counts[exchange.outcome]++;
      if (options.verbose) log(options.json, entryOf(exchange));
    },
    onAcceptError: onceASecond((error) =>
      log(options.json, { event: "accept-error", error: oneLine(error) })
    ),
  });

  let stopping = false;
  for (const [signal, number] of SIGNALS) {
    Deno.addSignalListener(signal, () => {
      if (stopping) Deno.exit(128 + number);
      stopping = true;
      log(options.json, { event: "shutdown", signal });
      server.shutdown();
      setTimeout(() => graceEnds.abort(), options.grace);
    });
  }

  console.log(`wait... listening on ${format(server.addr)}`);
  await server.finished;
  log(options.json, { event: "summary", ...counts });
  Deno.exit(0);
}

/** The signals that end the service. Windows has no SIGTERM. */
const SIGNALS: [Deno.Signal, number][] = Deno.build.os === "windows"
  ? [["SIGINT", 2]]
  : [["SIGINT", 2], ["SIGTERM", 15]];

function entryOf({ remote, outcome, bytes, ms }: Exchange): Entry {
  return {
    event: "exchange",
    remote: format(remote),
    outcome,
    bytes,
    ms: Math.round(ms * 1000) / 1000,
  };
}

if (import.meta.main) await main();
