/**
 * The command: listens and runs the echo service of `server.ts` until SIGINT or
 * SIGTERM.
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

/**
 * The command's options, as {@linkcode parseOptions} returns them.
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
  /** The port to listen on, 0 to 65535. */
  port: number;
  /** The address or name to listen on. */
  host: string;
  /** The path of a Unix socket to listen on instead. */
  unix?: string;
  /** The file with the certificate, for TLS. */
  cert?: string;
  /** The file with the private key, for TLS. */
  key?: string;
  /** What to send to each client first. */
  greeting: Uint8Array;
  /** The maximum number of bytes to read and echo. */
  maxBytes: number;
  /** The time limit for an exchange, in milliseconds; 0 disables it. */
  timeout: number;
  /** The maximum number of simultaneous connections. */
  maxConnections: number;
  /** How simultaneous connections are handled. */
  mode: Mode;
  /** Milliseconds for exchanges to finish after a signal. */
  grace: number;
  /** Whether to let other processes listen on the same port. */
  reusePort: boolean;
  /** Whether to log each exchange. */
  verbose: boolean;
  /** Whether to log JSON lines. */
  json: boolean;
  /** Whether to print the help text and exit. */
  help: boolean;
  /** Whether to print the version and exit. */
  version: boolean;
}

/** One option. Without `value` and `parse` it is a flag. */
interface Option<T> {
  name: string;
  short?: string;
  /** The placeholder for the value in the help text. */
  value?: string;
  /** The default, as you would type it. */
  default?: string;
  help: string;
  parse?: (text: string, refuse: (why: string) => never) => T;
}

const OPTIONS: { [K in keyof Required<Options>]: Option<Options[K]> } = {
  port: {
    name: "port",
    short: "p",
    value: "N",
    default: "30000",
    help: "port to listen on; 0 picks a free one",
    parse: wholeNumber(0, 65_535),
  },
  host: {
    name: "host",
    value: "HOST",
    default: "0.0.0.0",
    help: "address to listen on: IPv4, IPv6 or a name",
    parse: nonEmpty,
  },
  unix: {
    name: "unix",
    value: "PATH",
    help: "listen on a Unix socket instead",
    parse: nonEmpty,
  },
  cert: {
    name: "cert",
    value: "FILE",
    help: "PEM file with the TLS certificate; needs --key",
    parse: nonEmpty,
  },
  key: {
    name: "key",
    value: "FILE",
    help: "PEM file with the TLS private key; needs --cert",
    parse: nonEmpty,
  },
  greeting: {
    name: "greeting",
    value: "TEXT",
    default: String.raw`Hello World!\r\n`,
    help: String.raw`greeting; allows \r \n \t \0 \\ \xHH`,
    parse: parseGreeting,
  },
  maxBytes: {
    name: "max-bytes",
    value: "N",
    default: "1024",
    help: "maximum number of bytes to read and echo",
    parse: wholeNumber(1, 2 ** 30),
  },
  timeout: {
    name: "timeout",
    value: "SECONDS",
    default: "60",
    help: "time limit for an exchange; 0 disables it",
    parse: seconds,
  },
  maxConnections: {
    name: "max-connections",
    value: "N",
    default: "none",
    help: "maximum number of simultaneous connections",
    parse: orNone(wholeNumber(1, 1_000_000_000)),
  },
  mode: {
    name: "mode",
    value: "MODE",
    default: "concurrent",
    help: "concurrent, serial or events",
    parse: oneOf("concurrent", "serial", "events"),
  },
  grace: {
    name: "grace",
    value: "SECONDS",
    default: "10",
    help: "time for exchanges to finish after a signal",
    parse: seconds,
  },
  reusePort: {
    name: "reuse-port",
    help: "share the port with other processes (Linux)",
  },
  verbose: {
    name: "verbose",
    short: "v",
    help: "log each exchange",
  },
  json: { name: "json", help: "log JSON lines" },
  help: {
    name: "help",
    short: "h",
    help: "print this help and exit",
  },
  version: {
    name: "version",
    short: "V",
    help: "print the version and exit",
  },
};

async function main(): Promise<void> {
  const options = optionsOrDie(Deno.args);
  if (options.help) return print(helpText());
  if (options.version) return print(`echo-server ${denoJson.version}`);

  const log = new Log(Deno.stderr, options.json);
  let signaled = false;
  const handleSignals = () =>
    onSignals((signal) => {
      signaled = true;
      server.shutdown();
      const { grace } = options;
      const fields = { clients: server.connections, grace: grace / 1000 };
      log.event("shutdown", { signal, ...fields }, HINTS[signal]);
    }, () => tryClose(listener));
  // A signal may end Deno's permission prompt, but must leave no socket file.
  if (options.unix) {
    requestPermissions(options.unix);
    handleSignals();
  }
  const listener = listenOrDie(options);
  if (!options.unix) handleSignals();
  ignoreFileSizeLimit();
  const counts = { ...ZERO_COUNTS };
  const logAcceptError = throttle(1000, (error) => {
    log.event("accept-error", { error });
  });
  let acceptError = "";
  const server = serve(listener, {
    ...options,
    onExchange(exchange) {
      counts[exchange.outcome]++;
      if (options.verbose) log.event("exchange", toFields(exchange));
    },
    onAcceptError(error) {
      acceptError = oneLine(error);
      logAcceptError(acceptError);
    },
  });
  announce(server.addr, options);
  await server.finished;
  if (!signaled) log.event("accept-failed", { error: acceptError });
  log.event("summary", counts);
  await log.flush(1000);
  Deno.exit(signaled ? 0 : 1);
}

const ZERO_COUNTS: Record<Outcome, number> = {
  echoed: 0,
  eof: 0,
  timeout: 0,
  reset: 0,
  shutdown: 0,
  error: 0,
};

/** The signals that shut the server down. Windows has no SIGTERM. */
const SIGNALS: [Deno.Signal, number][] = Deno.build.os === "windows"
  ? [["SIGINT", 2]]
  : [["SIGINT", 2], ["SIGTERM", 15]];

/** Shuts down on the first signal, and exits at once on a later one. */
function onSignals(
  shutDown: (signal: Deno.Signal) => void,
  cleanUp: () => void,
): void {
  let first = Infinity;
  const onSignal = (signal: Deno.Signal, number: number) => {
    const now = performance.now();
    if (first === Infinity) {
      first = now;
      shutDown(signal);
    } else if (now > first + 1000) { // within a second, it is the same request
      cleanUp();
      Deno.exit(128 + number);
    }
  };
  for (const [signal, number] of SIGNALS) {
    Deno.addSignalListener(signal, () => onSignal(signal, number));
  }
}

/** What to add in a terminal, to the line about a signal. */
const HINTS: Record<string, string> = {
  SIGINT: " (Ctrl-C again quits at once)",
};

/** Without a handler, a log that reaches its size limit ends the process. */
function ignoreFileSizeLimit(): void {
  if (Deno.build.os === "windows") return;
  Deno.addSignalListener("SIGXFSZ", () => {});
}

/** Makes Deno ask now for what a Unix socket needs. */
function requestPermissions(path: string): void {
  Deno.permissions.requestSync({ name: "read", path });
  Deno.permissions.requestSync({ name: "write", path });
  const absolute = path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  Deno.permissions.requestSync({ name: "net", host: `unix:${absolute}` });
}

/** Passes calls on, at most one per `ms`, and drops the others. */
function throttle(
  ms: number,
  call: (text: string) => void,
): (text: string) => void {
  let last = -Infinity;
  return (text) => {
    if (performance.now() < last + ms) return;
    call(text);
    last = performance.now();
  };
}

// ------------------------------------------------------------------ listening

function listenOrDie(options: Options): Deno.Listener {
  const { host: hostname, port, unix, cert, key, reusePort } = options;
  if (reusePort && Deno.build.os !== "linux") {
    die(1, `--reuse-port: only Linux supports it, not ${Deno.build.os}`);
  }
  const tls = cert && key && { cert: readOrDie(cert), key: readOrDie(key) };
  const tcp = {
    hostname,
    port,
    tcpBacklog: 4096, // the length of the queue; the kernel may lower it
    ...(reusePort && { reusePort }),
  };
  try {
    if (unix) return Deno.listen({ transport: "unix", path: unix });
    return tls ? Deno.listenTls({ ...tcp, ...tls }) : Deno.listen(tcp);
  } catch (error) {
    if (tls) dieOnBadPem(error, options);
    const addr = unix ?? format({ transport: "tcp", hostname, port });
    const inUse = unix ? "the path already exists" : "the port is in use";
    die(1, `cannot listen on ${addr}: ${describeListenError(error, inUse)}`);
  }
}

function readOrDie(file: string): string {
  try {
    return Deno.readTextFileSync(file);
  } catch (error) {
    die(1, `cannot read ${file}: ${describeError(error)}`);
  }
}

/** Ends the process if the certificate or the key caused the error. */
function dieOnBadPem(error: unknown, { cert, key }: Options): void {
  const text = oneLine(error);
  if (/^(Requires|invalid host) /.test(text)) return; // it names the host
  if (/KeyMismatch/.test(text)) die(1, `${key} does not match ${cert}`);
  if (/\bkeys?\b/i.test(text)) die(1, `${key} is not a PEM private key`);
  if (/certificate/i.test(text)) die(1, `${cert} is not a PEM certificate`);
}

function describeListenError(error: unknown, inUse: string): string {
  if (error instanceof Deno.errors.AddrInUse) return inUse;
  if (error instanceof Deno.errors.AddrNotAvailable) {
    return "this machine does not have that address";
  }
  if (error instanceof Deno.errors.PermissionDenied) return "not permitted";
  return describeError(error);
}

/** Says in plain words what the system or Deno refused. */
function describeError(error: unknown): string {
  const text = oneLine(error);
  const missing = text.match(/^Requires (\w+) access to "(.*)", run again/);
  if (missing) {
    const how = Deno.build.standalone ? "compile" : "run";
    return `${how} it with --allow-${missing[1]}=${missing[2]}`;
  }
  const plain = text.replace(/ \(os error \d+\)(: .*)?$/, "");
  return plain.charAt(0).toLowerCase() + plain.slice(1);
}

/** Closes the listener, upon which Deno removes the file of a Unix socket. */
function tryClose(listener: Deno.Listener): void {
  try {
    listener.close();
  } catch {
    // It is already closed.
  }
}

/** An address as people write it: `127.0.0.1:30000`, `[::1]:30000`, a path. */
function format(addr: Deno.Addr): string {
  if ("hostname" in addr) {
    const { hostname, port } = addr;
    return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  }
  return "path" in addr && addr.path || addr.transport;
}

// -------------------------------------------------------------------- logging

/** The most lines that may wait, and how long they wait to be batched. */
const QUEUE = { lines: 2000, ms: 10 };
/** A write to a pipe of up to this size is atomic: lines do not interleave. */
const PIPE_BUF = 4096;

type Fields = Record<string, string | number>;

/**
 * Writes lines to stdout or stderr, in the background: a reader that stops
 * reading does not block the server. Lost lines are counted.
 */
class Log {
  readonly #lines: Uint8Array[] = [];
  /** The rest of a line of which only a part could be written. */
  #partialLine = new Uint8Array();
  #dropped = 0;
  #writing?: Promise<void>;

  constructor(readonly out: typeof Deno.stderr, readonly json: boolean) {}

  /** Logs an event. On a terminal, the hint follows. */
  event(event: string, fields: Fields, hint = ""): void {
    const isShown = hint !== "" && !this.json && this.out.isTerminal();
    this.line(this.#format(event, fields) + (isShown ? hint : ""));
  }

  line(text: string): void {
    this.#lines.push(new TextEncoder().encode(text + "\n"));
    this.#keepLast(QUEUE.lines);
    this.#writing ??= this.#run();
  }

  /** Waits for the last lines to be written, but at most `ms`. */
  async flush(ms: number): Promise<void> {
    await Promise.race([this.#writing, delay(ms / 2)]);
    this.#keepLast(2); // above all the summary
    await Promise.race([this.#writing, delay(ms / 2)]);
  }

  #keepLast(lines: number): void {
    while (this.#lines.length > lines) {
      this.#lines.shift();
      this.#dropped++;
    }
  }

  /** `time event key=value …`, or JSON. */
  #format(event: string, fields: Fields): string {
    const time = new Date().toISOString();
    if (this.json) {
      return escapeControls(JSON.stringify({ time, event, ...fields }));
    }
    let line = `${time} ${event}`;
    for (const key in fields) line += ` ${key}=${toText(fields[key])}`;
    return line;
  }

  async #run(): Promise<void> {
    await delay(QUEUE.ms);
    while (this.#lines.length > 0) {
      const lost = await this.#write(this.#nextBatch());
      if (lost === 0 && this.#dropped > 0) await this.#reportDropped();
      this.#dropped += lost;
    }
    this.#writing = undefined;
  }

  /** Takes as many lines as fit into one atomic write, but at least one. */
  #nextBatch(): Uint8Array[] {
    let bytes = 0;
    const end = this.#lines.findIndex((line, i) =>
      (bytes += line.length) > PIPE_BUF && i > 0
    );
    return this.#lines.splice(0, end < 0 ? this.#lines.length : end);
  }

  /** Returns how many of the lines were lost. */
  async #write(lines: Uint8Array[]): Promise<number> {
    const chunk = concat([this.#partialLine, ...lines]);
    let written = 0;
    try {
      while (written < chunk.length) {
        written += await this.out.write(chunk.subarray(written));
      }
    } catch {
      // The caller counts what is lost.
    }
    const rest = chunk.subarray(written);
    const isPartial = written > 0
      ? chunk[written - 1] !== NEWLINE
      : this.#partialLine.length > 0;
    this.#partialLine = rest.slice(
      0,
      isPartial ? rest.indexOf(NEWLINE) + 1 : 0,
    );
    return rest.subarray(this.#partialLine.length)
      .reduce((count, byte) => count + (byte === NEWLINE ? 1 : 0), 0);
  }

  async #reportDropped(): Promise<void> {
    const lines = this.#dropped;
    const line = this.#format("log-dropped", { lines }) + "\n";
    const lost = await this.#write([new TextEncoder().encode(line)]);
    if (lost === 0) this.#dropped -= lines;
  }
}

const NEWLINE = "\n".charCodeAt(0);

function concat(parts: Uint8Array[]): Uint8Array {
  const length = parts.reduce((length, part) => length + part.length, 0);
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Prints on stdout that the server is ready. */
function announce(addr: Deno.Addr, { cert, json }: Options): void {
  const out = new Log(Deno.stdout, json);
  const address = printable(format(addr));
  if (json) out.event("listening", { address });
  else out.line(`wait... listening on ${address}${cert ? " (TLS)" : ""}`);
}

function toFields({ remote, outcome, bytes, ms }: Exchange): Fields {
  ms = Math.round(ms * 1000) / 1000;
  return { remote: format(remote), outcome, bytes, ms };
}

/** Prints text on stdout, at once. */
function print(text: string): void {
  try {
    console.log(text);
  } catch (error) {
    die(1, `cannot write to stdout: ${describeError(error)}`);
  }
}

/** Prints one line on stderr and ends the process. */
function die(code: number, line: string): never {
  try {
    console.error(`echo-server: ${printable(line)}`);
  } catch {
    // The exit code must suffice.
  }
  Deno.exit(code);
}

/** One line that a terminal can show safely. */
function printable(text: string): string {
  return escapeControls(text.replace(/\s+/g, " "));
}

/** Escapes control and format characters, as JSON would. */
function escapeControls(text: string): string {
  const hex = (unit: string) =>
    unit.charCodeAt(0).toString(16).padStart(4, "0");
  return text.replace(
    /\p{C}/gu,
    (char) => char.split("").map((unit) => `\\u${hex(unit)}`).join(""),
  );
}

function oneLine(error: unknown): string {
  return printable(error instanceof Error ? error.message : String(error));
}

function toText(value: string | number): string {
  const text = String(value);
  return /^[!#-~]+$/.test(text) ? text : quote(text);
}

function quote(text: string): string {
  return printable(JSON.stringify(text));
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// -------------------------------------------------------------------- parsing

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

/**
 * Parses the command's arguments.
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
  const names = OPTION_LIST.map(({ name }) => name);
  const unknown: string[] = [];
  const given: Record<string, string[]> = parseArgs(normalizeArgs(args), {
    string: names,
    collect: names,
    unknown: (arg: string) => unknown.push(arg) === 0,
  });
  const [first] = unknown.concat(given._);
  if (first !== undefined) {
    const what = first.startsWith("-") ? "option" : "argument";
    throw new UsageError(`unknown ${what} ${quote(first)}`);
  }
  checkConflicts(given);
  const values = Object.entries<Option<unknown>>(OPTIONS)
    .map(([key, option]) => [key, valueOf(option, given[option.name])])
    .filter(([, value]) => value !== undefined);
  return Object.fromEntries(values);
}

/** The value of an option: the given one, or its default. */
function valueOf(option: Option<unknown>, given: string[]): unknown {
  if (option.parse === undefined) return given.length > 0;
  if (given.length > 1) refuse(option, "given more than once");
  const text = given[0] ?? option.default;
  return text === undefined
    ? undefined
    : option.parse(text, (why) => refuse(option, `${quote(text)} is ${why}`));
}

/** Refuses options that exclude each other, or lack the one that they need. */
function checkConflicts(given: Record<string, string[]>): void {
  const isGiven = ({ name }: { name: string }) => given[name].length > 0;
  const { unix, port, host, cert, key, reusePort } = OPTIONS;
  const other = [port, host, cert, key, reusePort].find(isGiven);
  if (isGiven(unix) && other) {
    refuse(unix, `cannot be combined with --${other.name}`);
  }
  if (isGiven(cert) && !isGiven(key)) refuse(cert, "needs --key");
  if (isGiven(key) && !isGiven(cert)) refuse(key, "needs --cert");
}

function refuse({ name }: { name: string }, why: string): never {
  throw new UsageError(`--${name}: ${why}`);
}

/**
 * Writes each option as `--name=value`, and a flag as `--name=true`. On its
 * own, `parseArgs` accepts no value that is empty or starts with a hyphen, and
 * lets a flag swallow a `false` that follows.
 */
function normalizeArgs(args: string[]): string[] {
  const joined: string[] = [];
  const rest = args.slice(args[0] === "--" ? 1 : 0).reverse(); // as for npm
  for (let arg; (arg = rest.pop()) !== undefined;) {
    if (arg === "--") return [...joined, arg, ...rest.reverse()];
    const [long, ...others] = toLong(arg);
    rest.push(...others);
    const [, name, value] = long.match(/^--([^=]+)(?:=([^]*))?$/) ?? [];
    const option = OPTION_LIST.find((option) => option.name === name);
    if (option === undefined) joined.push(long);
    else if (option.parse) {
      const text = value ?? rest.pop() ?? refuse(option, "needs a value");
      joined.push(`--${name}=${text}`);
    } else if (value === undefined) joined.push(`--${name}=true`);
    else refuse(option, "takes no value");
  }
  return joined;
}

/** Rewrites `-vp0` as `--verbose -p0`, and `-p0` as `--port=0`. */
function toLong(arg: string): string[] {
  const [hyphen, letter = ""] = arg;
  const option = OPTION_LIST.find(({ short }) => short === letter);
  if (hyphen !== "-" || option === undefined) return [arg];
  const name = `--${option.name}`;
  const text = arg.slice(2);
  if (text === "" || text.startsWith("=")) return [name + text];
  return option.parse ? [`${name}=${text}`] : [name, `-${text}`];
}

const OPTION_LIST: Option<unknown>[] = Object.values(OPTIONS);

type Parse<T> = NonNullable<Option<T>["parse"]>;

function wholeNumber(min: number, max: number): Parse<number> {
  return (text, refuse) => {
    const n = /^[0-9]+$/.test(text) ? Number(text) : NaN;
    if (n >= min && n <= max) return n;
    return refuse(`not a whole number from ${min} to ${max}`);
  };
}

/** Parses seconds and returns milliseconds. */
function seconds(text: string, refuse: (why: string) => never): number {
  const max = 2_147_483; // the longest delay of a timer
  const n = /^[0-9]+(\.[0-9]+)?$/.test(text) ? Number(text) : NaN;
  return n <= max ? 1000 * n : refuse(`not a number from 0 to ${max}`);
}

function orNone(parse: Parse<number>): Parse<number> {
  return (text, refuse) => text === "none" ? Infinity : parse(text, refuse);
}

function oneOf<T extends string>(...values: T[]): Parse<T> {
  return (text, refuse) =>
    values.find((value) => value === text) ??
      refuse(`not one of ${values.join(", ")}`);
}

function nonEmpty(text: string, refuse: (why: string) => never): string {
  return text || refuse("empty");
}

/** The bytes of a greeting: UTF-8, except for `\xHH`. */
function parseGreeting(
  text: string,
  refuse: (why: string) => never,
): Uint8Array {
  const escapes = { r: 13, n: 10, t: 9, 0: 0, "\\": 92 };
  const bytes: number[] = [];
  for (const [part] of text.matchAll(/\\(x[0-9a-fA-F]{2}|[^])?|[^\\]+/g)) {
    const [first, letter = "", ...hex] = part;
    if (first !== "\\") {
      for (const byte of new TextEncoder().encode(part)) bytes.push(byte);
    } else if (letter === "x" && hex.length === 2) {
      bytes.push(parseInt(hex.join(""), 16));
    } else {
      const byte = Object.entries(escapes).find(([key]) => key === letter)?.[1];
      bytes.push(
        byte ?? refuse(`not valid: ${printable(part)} is not an escape`),
      );
    }
  }
  return new Uint8Array(bytes);
}

function optionsOrDie(args: string[]): Options {
  try {
    return parseOptions(args);
  } catch (error) {
    if (error instanceof UsageError) die(2, `${error.message}; try --help`);
    throw error;
  }
}

function helpText(): string {
  const lines = OPTION_LIST.map(
    ({ name, short, value, default: preset, help }) => {
      const left = `  ${short ? `-${short},` : "   "} --${name} ${value ?? ""}`;
      const right = preset === undefined ? help : `${help} (${preset})`;
      return left.length < 25
        ? left.padEnd(25) + right
        : `${left}\n${" ".repeat(25)}${right}`;
    },
  );
  return `echo-server ${denoJson.version}
Greets each client, reads once, echoes what it read and closes.

Usage: echo-server [options]

${lines.join("\n")}`;
}

if (import.meta.main) await main();
