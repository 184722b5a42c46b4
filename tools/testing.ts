/**
 * What the tests share: permissions, connections, and the command in a process
 * of its own.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import net from "node:net";

/** The first thing that every client is sent. */
export const GREETING = "Hello World!\r\n";

/** A test that is ignored, and says so, where something it needs is missing. */
export function needs(
  permissions: Deno.PermissionName[],
  programs: string[],
  name: string,
  fn: () => Promise<void>,
): void {
  const granted = (name: Deno.PermissionName) =>
    Deno.permissions.querySync({ name }).state === "granted";
  const refused = permissions.filter((name) => !granted(name))
    .map((name) => `--allow-${name}`);
  const missing = refused.length > 0
    ? refused
    : programs.filter((program) => !exists(program));
  const why = missing.length > 0
    ? ` (ignored: needs ${missing.join(" ")})`
    : "";
  Deno.test({ name: name + why, ignore: why !== "", fn });
}

/** Whether a program is installed. */
export function exists(program: string): boolean {
  return new Deno.Command("sh", {
    args: ["-c", 'command -v "$1"', "sh", program],
    stdout: "null",
  }).outputSync().success;
}

/** A test that needs the network. */
export const withNet = (name: string, fn: () => Promise<void>) =>
  needs(["net"], [], name, fn);

/** A test that runs the command. */
export const withCommand = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read"], [], name, fn);

export const bytesOf = (text: string) => new TextEncoder().encode(text);
export const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Lets everything else go on that can. */
export const turn = () => new Promise((go) => setTimeout(go, 0));

/** Something that is waited for, until it has come often enough. */
export class Inbox<T> {
  readonly all: T[] = [];
  #waiting: (() => void)[] = [];

  push = (item: T): void => {
    this.all.push(item);
    this.#waiting.splice(0).forEach((wake) => wake());
  };

  async atLeast(count: number): Promise<T[]> {
    while (this.all.length < count) {
      await new Promise<void>((wake) => this.#waiting.push(wake));
    }
    return this.all;
  }
}

export const connect = (port: number) =>
  Deno.connect({ hostname: "127.0.0.1", port });

export const connectMany = (port: number, count: number) =>
  Promise.all(Array.from({ length: count }, () => connect(port)));

/** Connects, and breaks the connection off with a reset after `until`. */
export async function reset(
  port: number,
  until: "connect" | "data",
  message = "",
): Promise<void> {
  const socket = net.connect(port, "127.0.0.1");
  socket.on("error", () => {}); // the server may have been first
  const closed = new Promise((resolve) => socket.once("close", resolve));
  await new Promise((resolve) => socket.once("connect", resolve));
  if (message) socket.write(message);
  if (until === "data") {
    await new Promise((resolve) => socket.once("data", resolve));
  }
  socket.resetAndDestroy();
  await closed;
}

export async function readExactly(
  conn: Deno.Conn,
  size: number,
): Promise<string> {
  const bytes = new Uint8Array(size);
  for (let n = 0; n < size;) {
    const more = await conn.read(bytes.subarray(n));
    if (more === null) throw new Error(`ended after ${n} of ${size} bytes`);
    n += more;
  }
  return textOf(bytes);
}

export async function readAll(conn: Deno.Conn): Promise<Uint8Array> {
  const chunks: number[] = [];
  const chunk = new Uint8Array(65536);
  for (let n; (n = await conn.read(chunk)) !== null;) {
    for (const byte of chunk.subarray(0, n)) chunks.push(byte);
  }
  return new Uint8Array(chunks);
}

/** Says something; returns everything that comes until the end of file. */
export async function ask(conn: Deno.Conn, message: string): Promise<string> {
  await conn.write(bytesOf(message));
  return textOf(await readAll(conn));
}

/** One whole exchange; returns everything that the service sent. */
export async function exchange(port: number, message: string): Promise<string> {
  using conn = await connect(port);
  return await ask(conn, message);
}

/** How to run `main.ts` with certain permissions. */
export const runMain = (...permissions: string[]) => [
  Deno.execPath(),
  "run",
  ...permissions,
  "main.ts",
];

/** The command in a process of its own. */
export class Command implements AsyncDisposable {
  readonly stdout: Inbox<string> = new Inbox();
  readonly stderr: Inbox<string> = new Inbox();
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<unknown>;
  readonly #reading = new AbortController();
  ended = false;

  /** Runs `program` with the arguments, which by default is `main.ts`. */
  constructor(args: string[], program = runMain("--allow-net")) {
    const [executable, ...first] = program;
    this.#child = new Deno.Command(executable, {
      args: [...first, ...args],
      cwd: new URL("..", import.meta.url),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    this.#output = Promise.all([
      this.#lines(this.#child.stdout, this.stdout),
      this.#lines(this.#child.stderr, this.stderr),
    ]).catch((error) => assertEquals(error.name, "AbortError"));
    this.#child.status.then(() => this.ended = true);
  }

  async #lines(from: ReadableStream<Uint8Array>, to: Inbox<string>) {
    const { signal } = this.#reading;
    const texts = from.pipeThrough(new TextDecoderStream(), { signal });
    let rest = "";
    for await (const text of texts) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      lines.forEach(to.push);
    }
    if (rest !== "") to.push(rest);
  }

  /** Breaks the pipes of its output, as a log reader that ends does. */
  stopReading(): void {
    this.#reading.abort();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Waits until it says that it is ready; returns the port. */
  async ready(): Promise<number> {
    const [line] = await Promise.race([
      this.stdout.atLeast(1),
      this.code().then(() => [`ended: ${this.stderr.all.join("\n")}`]),
    ]);
    const port = line.match(/^wait\.\.\. listening on .*:(\d+)$/)?.[1];
    assert(
      port !== undefined,
      `not the line of a server that is ready: ${line}`,
    );
    return Number(port);
  }

  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** Waits for the end; returns the exit code. */
  async code(): Promise<number> {
    await this.#output;
    return (await this.#child.status).code;
  }

  /** Waits for the `count`th line of the log that tells of the event. */
  async event(event: string, count = 1): Promise<string> {
    for (let seen = 1;; seen++) {
      const lines = (await this.stderr.atLeast(seen))
        .filter((line) => line.includes(event));
      if (lines.length >= count) return lines[count - 1];
      seen = this.stderr.all.length;
    }
  }

  /** How many descriptors the process holds. */
  async descriptors(): Promise<number> {
    const { stdout } = await new Deno.Command("ls", {
      args: [`/proc/${this.pid}/fd`],
    }).output();
    return textOf(stdout).trim().split("\n").length;
  }

  /** Its resident memory in kB. */
  async rss(): Promise<number> {
    const { stdout } = await new Deno.Command("ps", {
      args: ["-o", "rss=", "-p", `${this.pid}`],
    }).output();
    return Number(textOf(stdout));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.ended) this.kill("SIGKILL");
    await this.code();
  }
}
