/**
 * Clients: how they connect, send and read.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { bytesOf, GREETING, numbers, textOf } from "./bytes.ts";
import { turn } from "./timing.ts";

/** A connection, of any transport. */
export type Conn = Pick<
  Deno.Conn,
  "localAddr" | "remoteAddr" | "read" | "write" | "closeWrite" | "close"
>;

export const connect = (port: number) =>
  Deno.connect({ hostname: "127.0.0.1", port });

/** Clients that are closed if they are declared with `using`. */
export type Clients = Deno.Conn[] & Disposable;

/** Connects `count` clients at once. */
export async function connectMany(
  port: number,
  count: number,
): Promise<Clients> {
  return disposable(await Promise.all(numbers(count).map(() => connect(port))));
}

function disposable(clients: Deno.Conn[]): Clients {
  const dispose = () => clients.forEach((client) => client[Symbol.dispose]());
  return Object.assign(clients, { [Symbol.dispose]: dispose });
}

/** Connects `count` clients, and reads their greetings. */
export async function greetMany(port: number, count: number): Promise<Clients> {
  const clients = disposable([]);
  while (clients.length < count) {
    // So few at once that they fit into any queue of the kernel.
    const more = await connectMany(port, Math.min(count - clients.length, 100));
    const texts = more.map((conn) => readExactly(conn, GREETING.length));
    assertEquals(await Promise.all(texts), more.map(() => GREETING));
    clients.push(...more);
  }
  return clients;
}

/** A client that can reset its connection. */
export interface ResettableClient {
  write(p: Uint8Array): Promise<unknown>;
  /** Waits for some data. */
  received(): Promise<unknown>;
  reset(): Promise<void>;
}

export async function connectResettable(
  port: number,
): Promise<ResettableClient> {
  const net = await import("node:net"); // which takes time to load
  const socket = net.connect(port, "127.0.0.1");
  socket.on("error", () => {}); // the server may have been first
  const once = (name: string) =>
    new Promise<void>((done) => socket.once(name, () => done()));
  const closed = once("close");
  const event = (name: string) => Promise.race([once(name), closed]);
  await event("connect");
  return {
    write: (p) => new Promise((done) => socket.write(p, done)),
    received: () => event("data"),
    reset() {
      socket.resetAndDestroy();
      return closed;
    },
  };
}

/** Connects, and resets the connection after `until`. */
export async function reset(
  port: number,
  until: "connect" | "data",
  message = "",
): Promise<void> {
  const client = await connectResettable(port);
  if (message) client.write(bytesOf(message)); // it need not arrive
  if (until === "data") await client.received();
  await client.reset();
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
  let chunk = new Uint8Array(1024);
  for (let n; (n = await conn.read(chunk)) !== null;) {
    chunks.push(chunk.slice(0, n));
    if (n === chunk.length) chunk = new Uint8Array(2 * n);
  }
  return await new Blob(chunks).bytes();
}

/** The same, as text. */
export async function readText(conn: Conn): Promise<string> {
  return textOf(await readAll(conn));
}

/** Sends a message; returns everything that comes up to the EOF. */
export async function ask(conn: Conn, message: string): Promise<string> {
  await send(conn, message);
  return await readText(conn);
}

/** Each sends its number; returns all that each gets, or why it failed. */
export function askEach(clients: Conn[]): Promise<string[]> {
  const answer = (client: Conn, i: number) => ask(client, `${i}`).catch(String);
  return Promise.all(clients.map(answer));
}

/** What each of `count` clients should get then, if nobody has read before. */
export const answers = (count: number) =>
  numbers(count).map((i) => `${GREETING}${i}`);

/** Closes what may be closed already. */
export function tryClose(closer: { close(): void }): void {
  try {
    closer.close();
  } catch (error) {
    assert(error instanceof Deno.errors.BadResource);
  }
}

/** One whole exchange; returns everything that the service sent. */
export async function exchange(port: number, message: string): Promise<string> {
  using conn = await connect(port);
  return await ask(conn, message);
}

/** The same on a Unix socket. */
export async function exchangeOn(
  path: string,
  message: string,
): Promise<string> {
  using conn = await Deno.connect({ transport: "unix", path });
  return await ask(conn, message);
}

/** Makes `count` exchanges, 16 at a time. Every byte is checked. */
export async function exchangeMany(port: number, count: number): Promise<void> {
  let next = 0;
  await Promise.all(Array.from({ length: 16 }, async () => {
    for (let i; (i = next++) < count;) {
      assertEquals(await exchange(port, `${i}`), `${GREETING}${i}`);
    }
  }));
}

/** Waits until the listener on a port is closed. */
export async function waitUntilFree(port: number): Promise<void> {
  while (true) {
    try {
      return Deno.listen({ port }).close();
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
      await turn();
    }
  }
}
