/**
 * The command: listens and runs the echo service of `server.ts` until a signal
 * ends it.
 *
 * ```sh
 * deno run --allow-net main.ts --help
 * ```
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import denoJson from "./deno.json" with { type: "json" };
import { type Exchange, type Mode, serve } from "./server.ts";

/** The command's options, durations in milliseconds. */
interface Options {
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
  /** The time limit for an exchange; 0 disables it. */
  timeout: number;
  /** The maximum number of simultaneous connections. */
  maxConnections: number;
  /** How simultaneous connections are handled. */
  mode: Mode;
  /** How long exchanges may take to finish after a signal. */
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
  short?: string;
  /** The placeholder for the value in the help text. */
  value?: string;
  /** The default, as you would type it. */
  default?: string;
  help: string;
  /** Throws a {@linkcode UsageError} that says what the text is not. */
  parse?: (text: string) => T;
}

const OPTIONS: { [K in keyof Required<Options>]: Option<Options[K]> } = {
  port: {
    short: "p",
    value: "N",
    default: "30000",
    help: "port to listen on; 0 picks a free one",
    parse: wholeNumber(0, 65_535),
  },
  host: {
    value: "HOST",
    default: "0.0.0.0",
    help: "address to listen on: IPv4, IPv6 or a name",
    parse: nonEmpty,
  },
  unix: {
    value: "PATH",
    help: "listen on a Unix socket instead",
    parse: nonEmpty,
  },
  cert: {
    value: "FILE",
    help: "PEM file with the TLS certificate; needs --key",
    parse: nonEmpty,
  },
  key: {
    value: "FILE",
    help: "PEM file with the TLS private key; needs --cert",
    parse: nonEmpty,
  },
  greeting: {
    value: "TEXT",
    default: String.raw`Hello World!\r\n`,
    help: String.raw`greeting; allows \r \n \t \0 \\ \xHH`,
    parse: parseGreeting,
  },
  maxBytes: {
    value: "N",
    default: "1024",
    help: "maximum number of bytes to read and echo",
    parse: wholeNumber(1, 2 ** 30),
  },
  timeout: {
    value: "SECONDS",
    default: "60",
    help: "time limit for an exchange; 0 disables it",
    parse: seconds,
  },
  maxConnections: {
    value: "N",
    default: "none",
    help: "maximum number of simultaneous connections",
    parse: orNone(wholeNumber(1, 1_000_000_000)),
  },
  mode: {
    value: "MODE",
    default: "concurrent",
    help: "concurrent, serial or events",
    parse: oneOf("concurrent", "serial", "events"),
  },
  grace: {
    value: "SECONDS",
    default: "10",
    help: "time for exchanges to finish after a signal",
    parse: seconds,
  },
  reusePort: { help: "share the port with other processes (Linux)" },
  verbose: { short: "v", help: "log each exchange" },
  json: { help: "log JSON lines" },
  help: { short: "h", help: "print this help and exit" },
  version: { short: "V", help: "print the version and exit" },
};

async function main(): Promise<void> {
  const options = optionsOrDie(Deno.args);
  if (options.help) return print(helpText());
  if (options.version) return print(`echo-server ${denoJson.version}`);

  requestPermissions(options);
  // Before there is a Unix socket, so that no signal leaves its file behind.
  let listener: Deno.Listener | undefined = undefined;
  const signaled = handleSignals(() => listener?.close());
  listener = await listenOrDie(options);
  const log = new Log(Deno.stderr, options.json);
  const counts = { ...ZERO };
  let acceptError = "";
  let nextReport = 0;
  const server = serve(listener, {
    ...options,
    onExchange(exchange) {
      counts[exchange.outcome]++;
      if (options.verbose) log.event("exchange", toFields(exchange));
    },
    onAcceptError(error) {
      acceptError = messageOf(error);
      if (performance.now() < nextReport) return; // at most one a second
      nextReport = performance.now() + 1000;
      log.event("accept-error", { error: acceptError });
    },
  });
  announce(server.addr, options);

  const signal = await Promise.race([signaled, server.finished]);
  if (signal) {
    const { connections: clients } = server;
    const fields = { signal, clients, grace_ms: options.grace };
    const hint = signal === "SIGINT" ? " (Ctrl-C again quits at once)" : "";
    log.event("shutdown", fields, hint);
    await server.shutdown();
  } else log.event("accept-failed", { error: acceptError });
  log.event("summary", counts);
  await log.flush(1000);
  Deno.exit(signal ? 0 : 1);
}

/** How many exchanges have ended in each way. */
const ZERO = { echoed: 0, eof: 0, timeout: 0, reset: 0, shutdown: 0, error: 0 };
/** The signals that shut the server down, as far as the system has them. */
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15, SIGBREAK: 21 };
/** Within this time, in ms, a signal that comes again is the same request. */
const SAME_REQUEST = 100;

/** Resolves to the first signal. On a later one, exits at once. */
function handleSignals(cleanUp: () => void): Promise<Deno.Signal> {
  const { promise, resolve } = Promise.withResolvers<Deno.Signal>();
  let isLater = false;
  for (const [name, number] of Object.entries(SIGNALS)) {
    const signal = name as Deno.Signal;
    const onSignal = async () => {
      if (isLater) {
        attempt(cleanUp);
        Deno.exit(128 + number);
      }
      resolve(signal);
      // In two steps: if the process is busy, a signal may be late for one.
      await delay(SAME_REQUEST / 2);
      await delay(SAME_REQUEST / 2);
      isLater = true;
    };
    attempt(() => Deno.addSignalListener(signal, onSignal));
  }
  // Without a handler, a log that reaches its size limit ends the process.
  attempt(() => Deno.addSignalListener("SIGXFSZ", () => {}));
  return promise;
}

/** Makes Deno ask for what it needs, while Ctrl-C can still end its prompt. */
function requestPermissions(options: Options): void {
  const { unix, cert, key, host: hostname, port } = options;
  for (const path of [cert, key, unix]) {
    if (path) Deno.permissions.requestSync({ name: "read", path });
  }
  if (unix) Deno.permissions.requestSync({ name: "write", path: unix });
  attempt(() => { // Deno may refuse the host, and before 2.9 it has no `unix:`
    const isRelative = unix && !unix.startsWith("/");
    const path = isRelative ? `${Deno.cwd()}/${unix}` : unix;
    const addr = format({ transport: "tcp", hostname, port });
    const host = unix ? `unix:${path}` : addr;
    Deno.permissions.requestSync({ name: "net", host });
  });
}

// ------------------------------------------------------------------ listening

async function listenOrDie(options: Options): Promise<Deno.Listener> {
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
    if (unix) return await listenOnPath(unix);
    return tls ? Deno.listenTls({ ...tcp, ...tls }) : Deno.listen(tcp);
  } catch (error) {
    const badPem = tls && describePemError(error, tls.key, options);
    if (badPem) die(1, badPem);
    const addr = unix ?? format({ transport: "tcp", hostname, port });
    const inUse = unix ? "the path already exists" : "the port is in use";
    die(1, `cannot listen on ${addr}: ${describeListenError(error, inUse)}`);
  }
}

/** Listens on a Unix socket. Replaces the file that a killed server left. */
async function listenOnPath(path: string): Promise<Deno.Listener> {
  const listen = () => Deno.listen({ transport: "unix", path });
  // Servers hold the lock from bind() to listen(), so a socket that refuses is
  // dead, and not one that another server has just bound.
  using lock = await tryLock(path.replace(/[^/]*$/, "") || ".");
  try {
    return listen();
  } catch (error) {
    const state = await stateOfSocket(path);
    if (state === "live") throw new Error("another server listens there");
    if (state !== "dead") throw error;
    if (!lock) {
      throw new Error(
        "a killed server left it, and its folder cannot be read or locked",
      );
    }
    Deno.removeSync(path);
    return listen();
  }
}

/** Locks a folder, if it may be read and nobody holds the lock for long. */
async function tryLock(path: string): Promise<Deno.FsFile | undefined> {
  const { state } = Deno.permissions.querySync({ name: "read", path });
  if (state !== "granted") return;
  let folder: Deno.FsFile | undefined;
  try {
    folder = Deno.openSync(path);
    for (let tries = 0; tries < 100; tries++) {
      if (folder.tryLockSync(true)) return folder;
      await delay(10);
    }
  } catch {
    // The system refuses.
  }
  folder?.close();
}

/** Whether somebody listens on the socket at a path, if it is one. */
async function stateOfSocket(path: string): Promise<"live" | "dead" | "none"> {
  try {
    if (!Deno.lstatSync(path).isSocket) return "none";
    (await Deno.connect({ transport: "unix", path })).close();
    return "live";
  } catch (error) {
    return error instanceof Deno.errors.ConnectionRefused ? "dead" : "none";
  }
}

function readOrDie(file: string): string {
  try {
    return Deno.readTextFileSync(file);
  } catch (error) {
    die(1, `cannot read ${file}: ${describeError(error)}`);
  }
}

/** Says what is wrong with the certificate or the key, if that is the error. */
function describePemError(error: unknown, pem: string, options: Options) {
  const { cert, key } = options;
  const text = oneLine(error);
  if (/^(Requires|invalid host) /.test(text)) return; // it names the host
  if (/KeyMismatch/.test(text)) return `${key} does not match ${cert}`;
  if (/parse private key/.test(text)) {
    return `${key} is not a key that Deno supports: try RSA of 2048 bits or P-256`;
  }
  if (/ENCRYPTED/.test(pem)) return `${key} is encrypted`;
  if (/\bkeys?\b/i.test(text)) return `${key} is not a PEM private key`;
  if (/certificate/i.test(text)) return `${cert} is not a PEM certificate`;
}

function describeListenError(error: unknown, inUse: string): string {
  if (error instanceof Deno.errors.AddrInUse) return inUse;
  if (error instanceof Deno.errors.AddrNotAvailable) {
    return "this machine does not have that address";
  }
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  return describeError(error);
}

/** Says in plain words what the system or Deno refused. */
function describeError(error: unknown): string {
  const text = oneLine(error);
  const missing = text.match(
    /^Requires (\w+) access to "(.*)", (run again|specify)/,
  );
  if (missing) {
    const how = missing[3] === "specify" ? "compile" : "run"; // in a binary
    return `${how} it with --allow-${missing[1]}=${missing[2]}`;
  }
  const plain = text.replace(/ \(os error \d+\)(: .*)?$/, "");
  return plain.charAt(0).toLowerCase() + plain.slice(1);
}

/** An address as people write it: `127.0.0.1:30000`, `[::1]:30000`, a path. */
function format(addr: Deno.Addr): string {
  if ("hostname" in addr) {
    const { hostname, port } = addr;
    const isIPv6 = /^[^[].*:.*:/.test(hostname) || hostname.startsWith("::");
    return `${isIPv6 ? `[${hostname}]` : hostname}:${port}`;
  }
  return "path" in addr && addr.path || addr.transport;
}

// -------------------------------------------------------------------- logging

/** The most lines that may wait to be written. */
const MAX_LINES = 2000;
/** A write to a pipe of up to this size is atomic: lines do not interleave. */
const PIPE_BUF = 4096;
const NEWLINE = "\n".charCodeAt(0);

type Fields = Record<string, string | number>;

/**
 * Logs to stdout or stderr, in the background: a reader that stops reading does
 * not block the server. Lost lines are counted.
 */
class Log {
  readonly #lines: Uint8Array[] = [];
  readonly #writer: LineWriter;
  #dropped = 0;
  #writing?: Promise<void>;

  constructor(readonly out: typeof Deno.stderr, readonly json: boolean) {
    this.#writer = new LineWriter(out);
  }

  /** Logs an event. On a terminal, the hint follows. */
  event(event: string, fields: Fields, hint = ""): void {
    const isShown = hint !== "" && !this.json && this.out.isTerminal();
    this.line(this.#format(event, fields) + (isShown ? hint : ""));
  }

  line(text: string): void {
    this.#lines.push(encode(text + "\n"));
    this.#keepLast(MAX_LINES);
    this.#writing ??= this.#write();
  }

  /** Waits until all is written, and then, if need be, for the last lines. */
  async flush(ms: number): Promise<void> {
    await Promise.race([this.#writing, delay(ms / 2)]);
    this.#keepLast(2); // above all the summary
    await Promise.race([this.#writing, delay(ms / 2)]);
  }

  #keepLast(count: number): void {
    const excess = Math.max(0, this.#lines.length - count);
    this.#lines.splice(0, excess);
    this.#dropped += excess;
  }

  async #write(): Promise<void> {
    while (this.#lines.length > 0) {
      const lost = await this.#writer.write(this.#nextBatch());
      this.#dropped += lost; // meanwhile, there may be more
      if (this.#dropped > 0) await this.#reportDropped();
    }
    this.#writing = undefined;
  }

  /** Takes one line, and as many more as fit into one atomic write. */
  #nextBatch(): Uint8Array {
    const batch: number[] = [];
    do batch.push(...this.#lines.shift()!); while (
      this.#lines.length > 0 &&
      batch.length + this.#lines[0].length <= PIPE_BUF
    );
    return new Uint8Array(batch);
  }

  async #reportDropped(): Promise<void> {
    const lines = this.#dropped;
    const report = this.#format("log-dropped", { lines }) + "\n";
    const lost = await this.#writer.write(encode(report));
    if (lost === 0) this.#dropped -= lines;
  }

  /** `time event key=value …`, or JSON. */
  #format(event: string, fields: Fields): string {
    const time = new Date().toISOString();
    if (this.json) {
      return escapeControls(JSON.stringify({ time, event, ...fields }));
    }
    const pairs = Object.entries(fields)
      .map(([key, value]) => ` ${key}=${toText(value)}`);
    return `${time} ${event}${pairs.join("")}`;
  }
}

/** Writes whole lines: if a line is cut, the next write begins with its rest. */
class LineWriter {
  #rest: Uint8Array = new Uint8Array();

  constructor(readonly out: typeof Deno.stderr) {}

  /** Returns how many of the lines are lost. */
  async write(lines: Uint8Array): Promise<number> {
    this.#rest = await this.#tryWrite(this.#rest);
    if (this.#rest.length > 0) return countLines(lines);
    const left = await this.#tryWrite(lines);
    const end = lines.length - left.length;
    const isCut = end > 0 && lines[end - 1] !== NEWLINE;
    this.#rest = left.slice(0, isCut ? left.indexOf(NEWLINE) + 1 : 0);
    return countLines(left.subarray(this.#rest.length));
  }

  /** Writes as many bytes as possible, and returns the others. */
  async #tryWrite(bytes: Uint8Array): Promise<Uint8Array> {
    try {
      while (bytes.length > 0) {
        bytes = bytes.subarray(await this.out.write(bytes));
      }
    } catch {
      // The disk is full, or the reader has gone.
    }
    return bytes;
  }
}

function countLines(bytes: Uint8Array): number {
  return bytes.reduce((n, byte) => byte === NEWLINE ? n + 1 : n, 0);
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Prints on stdout that the server is ready. */
function announce(addr: Deno.Addr, { cert, json }: Options): void {
  const out = new Log(Deno.stdout, json);
  const address = format(addr);
  const tls = cert ? " (TLS)" : "";
  if (json) out.event("listening", { address });
  else out.line(escapeControls(`wait... listening on ${address}${tls}`));
}

function toFields({ remote, outcome, bytes, ms, error }: Exchange): Fields {
  ms = Math.round(ms * 1000) / 1000;
  const fields: Fields = { remote: format(remote), outcome, bytes, ms };
  return error === undefined ? fields : { ...fields, error: messageOf(error) };
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
  attempt(() => console.error(`echo-server: ${printable(line)}`));
  Deno.exit(code);
}

/** One line that a terminal can show safely. */
function printable(text: string): string {
  return escapeControls(text.replace(/\s+/g, " "));
}

/** Escapes control, format and line-breaking characters, as JSON would. */
function escapeControls(text: string): string {
  const hex = (unit: string) =>
    unit.charCodeAt(0).toString(16).padStart(4, "0");
  return text.replace(
    /[\p{C}\p{Zl}\p{Zp}]/gu,
    (char) => char.split("").map((unit) => `\\u${hex(unit)}`).join(""),
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function oneLine(error: unknown): string {
  return printable(messageOf(error));
}

function toText(value: string | number): string {
  const text = String(value);
  return /^[!#-~]+$/.test(text) ? text : quote(text);
}

function quote(text: string): string {
  return escapeControls(JSON.stringify(text));
}

/** Ignores what the call throws. */
function attempt(call: () => void): void {
  try {
    call();
  } catch {
    // There is nothing else to do.
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// -------------------------------------------------------------------- parsing

/** What is wrong with the command's arguments, in one line. */
class UsageError extends Error {
  override name = "UsageError";
}

/**
 * Parses the command's arguments.
 *
 * @internal Exported for the tests only.
 */
export function parseOptions(args: string[]): Options {
  const names = OPTION_LIST.map(({ name }) => name);
  const given: Record<string, string[]> = parseArgs(normalizeArgs(args), {
    string: names,
    collect: names,
  });
  checkConflicts(given);
  const values = OPTION_LIST
    .map((option) => [option.key, valueOf(option, given[option.name])])
    .filter(([, value]) => value !== undefined);
  return Object.fromEntries(values);
}

/** The value of an option: the given one, or its default. */
function valueOf(option: NamedOption, given: string[]): unknown {
  if (option.parse === undefined) return given.length > 0;
  if (given.length > 1) refuse(option.name, "given more than once");
  const [text = option.default] = given;
  if (text === undefined) return undefined;
  try {
    return option.parse(text);
  } catch (error) {
    refuse(option.name, `${quote(text)} is ${(error as UsageError).message}`);
  }
}

/** Refuses options that exclude each other, or lack the one that they need. */
function checkConflicts(given: Record<string, string[]>): void {
  const isGiven = (name: string) => given[name].length > 0;
  const other = ["port", "host", "cert", "key", "reuse-port"].find(isGiven);
  if (isGiven("unix") && other) {
    refuse("unix", `cannot be combined with --${other}`);
  }
  if (isGiven("cert") && !isGiven("key")) refuse("cert", "needs --key");
  if (isGiven("key") && !isGiven("cert")) refuse("key", "needs --cert");
}

function refuse(name: string, why: string): never {
  throw new UsageError(`--${name}: ${why}`);
}

function refuseUnknown(arg: string): never {
  const what = arg.startsWith("-") ? "option" : "argument";
  throw new UsageError(`unknown ${what} ${quote(arg)}`);
}

/**
 * Writes each option as `--name=value`, and a flag as `--name=true`. What is
 * left to `parseArgs` is to collect them by name. On its own, it accepts no
 * value that is empty or starts with a hyphen, lets a flag take a value or
 * swallow a `false` that follows, and reads `--no-port=3` as `--port=3`.
 */
function normalizeArgs(args: string[]): string[] {
  const joined: string[] = [];
  const rest = args.slice(args[0] === "--" ? 1 : 0).values(); // as for npm
  for (const arg of rest) {
    if (arg === "--") {
      for (const unknown of rest) refuseUnknown(unknown);
      break;
    }
    for (const [{ name, parse }, value] of optionsIn(arg)) {
      if (!parse && value !== undefined) refuse(name, "takes no value");
      const text = parse ? value ?? rest.next().value : true;
      joined.push(`--${name}=${text ?? refuse(name, "needs a value")}`);
    }
  }
  return joined;
}

/** The options in an argument such as `--port=0`, `-p0`, `-p=0` or `-vp0`. */
function* optionsIn(arg: string): Generator<[NamedOption, string?]> {
  const [long, name, text] = arg.match(/^--([^=]+)(?:=([^]*))?$/) ?? [];
  if (long !== undefined) {
    const option = OPTION_LIST.find((option) => option.name === name);
    return yield [option ?? refuseUnknown(arg), text];
  }
  if (!/^-./.test(arg)) refuseUnknown(arg);
  for (let i = 1; i < arg.length; i++) {
    const option = OPTION_LIST.find(({ short }) => short === arg[i]);
    if (option === undefined) refuseUnknown(`-${arg.slice(i)}`);
    if (option.parse || arg[i + 1] === "=") {
      const text = arg.slice(i + 1);
      return yield [option, text === "" ? undefined : text.replace(/^=/, "")];
    }
    yield [option];
  }
}

type NamedOption = Option<unknown> & { key: string; name: string };

/** The options with their names: `maxBytes` is `--max-bytes`. */
const OPTION_LIST = Object.entries(OPTIONS).map(
  ([key, option]): NamedOption => {
    const name = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    return { key, name, ...option };
  },
);

function wholeNumber(min: number, max: number) {
  return (text: string): number => {
    const n = /^[0-9]+$/.test(text) ? Number(text) : NaN;
    if (n >= min && n <= max) return n;
    throw new UsageError(`not a whole number from ${min} to ${max}`);
  };
}

/** Parses seconds and returns milliseconds. */
function seconds(text: string): number {
  const max = 2_147_483; // the longest delay of a timer
  const n = /^([0-9]+|[0-9]*\.[0-9]{1,3})$/.test(text) ? Number(text) : NaN;
  if (n <= max) return Math.round(1000 * n);
  throw new UsageError(`not a number from 0 to ${max}, to three decimals`);
}

function orNone(parse: (text: string) => number) {
  return (text: string) => text === "none" ? Infinity : parse(text);
}

function oneOf<T extends string>(...values: T[]) {
  return (text: string): T => {
    const value = values.find((value) => value === text);
    if (value !== undefined) return value;
    throw new UsageError(`not one of ${values.join(", ")}`);
  };
}

function nonEmpty(text: string): string {
  if (text !== "") return text;
  throw new UsageError("empty");
}

const ESCAPES: Record<string, number> = { r: 13, n: 10, t: 9, 0: 0, "\\": 92 };

/** The bytes of a greeting: UTF-8, except for `\xHH`. */
function parseGreeting(text: string): Uint8Array {
  const bytes: number[] = [];
  const parts = text.matchAll(/[^\\]+|\\(x([0-9a-fA-F]{2})|[^]?)/gu);
  for (const [part, letter, hex] of parts) {
    if (letter === undefined) {
      for (const byte of encode(part)) bytes.push(byte);
      continue;
    }
    const byte = hex ? parseInt(hex, 16) : ESCAPES[letter];
    if (byte === undefined) {
      throw new UsageError(`not valid: ${printable(part)} is not an escape`);
    }
    bytes.push(byte);
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
