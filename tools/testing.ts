/**
 * What the tests share: permissions, bytes, and connections over TCP.
 *
 * @module
 */

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
