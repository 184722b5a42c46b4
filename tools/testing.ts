/**
 * What the tests share: permissions, bytes, and connections over TCP.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import net from "node:net";

/** The first thing that every client is sent. */
export const GREETING = "Hello World!\r\n";

/** A connection, of any transport. */
export type Conn = Pick<
  Deno.Conn,
  "localAddr" | "remoteAddr" | "read" | "write" | "closeWrite" | "close"
>;

/** What a test needs besides permissions: a program, or something else. */
export type Need = string | { name: string; isMet: () => boolean };

/** A test that is ignored, and says so, where something it needs is missing. */
export function needs(
  permissions: Deno.PermissionName[],
  others: Need[],
  name: string,
  fn: () => Promise<void>,
): void {
  const refused = permissions.filter((name) => !isGranted(name))
    .map((name) => `--allow-${name}`);
  const missing = refused.length > 0 ? refused : others
    .map((need) => typeof need === "string" ? program(need) : need)
    .filter(({ isMet }) => !isMet()).map(({ name }) => name);
  const why = missing.length > 0
    ? ` (ignored: needs ${missing.join(" ")})`
    : "";
  const ignore = why !== "";
  Deno.test({ name: name + why, ignore, fn, timeout: 60_000 }); // if it hangs
}

const isGranted = (name: Deno.PermissionName) =>
  Deno.permissions.querySync({ name }).state === "granted";

const program = (name: string) => ({ name, isMet: () => exists(name) });

const found = new Map<string, boolean>();

/** Whether a program is installed. */
export function exists(program: string): boolean {
  if (!found.has(program)) {
    const { success } = new Deno.Command("sh", {
      args: ["-c", 'command -v "$1"', "sh", program],
      stdout: "null",
    }).outputSync();
    found.set(program, success);
  }
  return found.get(program)!;
}

/** A kernel that lets so many clients wait to be accepted, as far as known. */
export const queueOf = (size: number): Need => ({
  name: `net.core.somaxconn=${size}`,
  isMet() {
    if (!isGranted("run")) return true;
    const { stdout } = new Deno.Command("cat", { // Deno may not read /proc
      args: ["/proc/sys/net/core/somaxconn"],
      stderr: "null",
    }).outputSync();
    return Number(textOf(stdout)) >= size;
  },
});

/** An address of IPv6 to listen on. Containers often have none. */
export const IPV6: Need = {
  name: "IPv6",
  isMet() {
    try {
      Deno.listen({ hostname: "::1", port: 0 }).close();
    } catch (error) {
      if (error instanceof Deno.errors.AddrNotAvailable) return false;
      throw error;
    }
    return true;
  },
};

/** A test that needs the network. */
export const withNet = (name: string, fn: () => Promise<void>) =>
  needs(["net"], [], name, fn);

/** A test that runs the command. */
export const withCommand = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read"], [], name, fn);

export const bytesOf = (text: string) => new TextEncoder().encode(text);
export const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

export const delay = (ms: number) => new Promise((go) => setTimeout(go, ms));

/** Lets everything else go on that can. */
export const turn = () => delay(0);

/** Long enough for what should not happen to happen. */
export async function turns(count = 5): Promise<void> {
  while (count-- > 0) await turn();
}

/** Kills a process, if it is still there. */
export function tryKill(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** Returns a function that says how many seconds ago this was called. */
export function stopwatch(): () => number {
  const began = performance.now();
  return () => (performance.now() - began) / 1000;
}

/**
 * Tries under a time limit. An attempt that says that it was late has proved
 * nothing, so it is repeated under the next limit.
 */
export async function tryWithin(
  limits: number[],
  attempt: (seconds: number) => Promise<"late" | void>,
): Promise<void> {
  for (const seconds of limits) {
    if (await attempt(seconds) !== "late") return;
  }
  throw new Error(`too late for every limit: ${limits} s`);
}

/** `[0, 1, 2, ...]` */
export const numbers = (count: number) =>
  Array.from({ length: count }, (_, i) => i);

/** A text of that length that shows where each part of it belongs. */
export const digits = (length: number) =>
  "0123456789".repeat(length / 10 + 1).slice(0, length);

/** A list of what has come so far, and a way to wait for more. */
export class Inbox<T> {
  readonly all: T[] = [];
  #waiting: (() => void)[] = [];

  push = (item: T): void => {
    this.all.push(item);
    this.#waiting.splice(0).forEach((wake) => wake());
  };

  async waitFor(count: number): Promise<T[]> {
    while (this.all.length < count) {
      await new Promise<void>((wake) => this.#waiting.push(wake));
    }
    return this.all;
  }

  /** Waits for the `count`th item that matches. */
  async find(matches: (item: T) => boolean, count = 1): Promise<T> {
    for (let size = 1;; size = this.all.length + 1) {
      const found = (await this.waitFor(size)).filter(matches);
      if (found.length >= count) return found[count - 1];
    }
  }
}

export const connect = (port: number) =>
  Deno.connect({ hostname: "127.0.0.1", port });

/** Clients that are closed if they are declared with `using`. */
export type Clients = Deno.Conn[] & Disposable;

/** Connects so many clients at once. */
export async function connectMany(
  port: number,
  count: number,
): Promise<Clients> {
  const clients = await Promise.all(numbers(count).map(() => connect(port)));
  const dispose = () => clients.forEach((client) => client[Symbol.dispose]());
  return Object.assign(clients, { [Symbol.dispose]: dispose });
}

/** Connects so many clients, and reads their greetings. */
export async function greetMany(port: number, count: number): Promise<Clients> {
  const clients = await connectMany(port, 0);
  while (clients.length < count) {
    // So few at once that they fit into any queue of the kernel.
    const more = await connectMany(port, Math.min(count - clients.length, 100));
    const texts = more.map((conn) => readExactly(conn, GREETING.length));
    assertEquals(await Promise.all(texts), more.map(() => GREETING));
    clients.push(...more);
  }
  return clients;
}

/** Connects, and resets the connection after `until`. */
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

/** Writes all of a message: a single write may take only some of it. */
export async function send(
  conn: Conn,
  message: string | Uint8Array,
): Promise<void> {
  let rest = typeof message === "string" ? bytesOf(message) : message;
  while (rest.length > 0) rest = rest.subarray(await conn.write(rest));
}

export async function readExactly(conn: Conn, size: number): Promise<string> {
  const bytes = new Uint8Array(size);
  for (let n = 0; n < size;) {
    const more = await conn.read(bytes.subarray(n));
    if (more === null) throw new Error(`EOF after ${n} of ${size} bytes`);
    n += more;
  }
  return textOf(bytes);
}

/** Reads up to the EOF. */
export async function readAll(conn: Conn): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  const chunk = new Uint8Array(65536);
  for (let n; (n = await conn.read(chunk)) !== null;) {
    chunks.push(chunk.slice(0, n));
  }
  return await new Blob(chunks).bytes();
}

/** Reads up to the EOF. */
export async function readText(conn: Conn): Promise<string> {
  return textOf(await readAll(conn));
}

/** Sends a message; returns everything that comes up to the EOF. */
export async function ask(conn: Conn, message: string): Promise<string> {
  await send(conn, message);
  return await readText(conn);
}

/** One whole exchange; returns everything that the service sent. */
export async function exchange(port: number, message: string): Promise<string> {
  using conn = await connect(port);
  return await ask(conn, message);
}
