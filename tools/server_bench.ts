/**
 * Benchmarks: this service beside `node:net`, the `pipeTo` echo of the
 * documentation and a minimal server, in one run, so that the ratios mean
 * something on a noisy machine too.
 *
 * ```sh
 * deno task bench
 * ```
 *
 * Client and servers share one process here, so the ratios are smaller than
 * between the servers alone.
 *
 * @module
 */

import net from "node:net";
import { serve } from "../server.ts";
import { bytesOf, connect, GREETING, readAll } from "./testing.ts";

const CROWD = 500;
const GREETS = bytesOf(GREETING);
const MESSAGE = bytesOf("The quick brown fox jumps over it\r\n");

const listen = () =>
  Deno.listen({ hostname: "127.0.0.1", port: 0, tcpBacklog: 4096 });

/** This service, in the given mode. */
function ours(mode: "concurrent" | "events"): number {
  const listener = listen();
  serve(listener, { mode });
  return listener.addr.port;
}

/** The minimal accept loop, with a task for each connection. */
function loop(handle: (conn: Deno.Conn) => Promise<void>): number {
  const listener = listen();
  (async () => {
    for await (const conn of listener) handle(conn);
  })();
  return listener.addr.port;
}

/** The minimal task of the same shape. */
async function minimal(conn: Deno.Conn): Promise<void> {
  await conn.write(GREETS);
  const buffer = new Uint8Array(1024);
  const n = await conn.read(buffer);
  if (n !== null) await conn.write(buffer.subarray(0, n));
  conn.close();
}

/** The documentation's echo server. It echoes until the client half-closes. */
async function pipeTo(conn: Deno.Conn): Promise<void> {
  await conn.write(GREETS);
  await conn.readable.pipeTo(conn.writable);
}

/** The same exchange on `node:net`. */
async function nodeNet(): Promise<number> {
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.write(GREETS);
    socket.once("data", (data) => socket.end(data.subarray(0, 1024)));
  });
  await new Promise<void>((go) => server.listen(0, "127.0.0.1", 4096, go));
  return (server.address() as net.AddressInfo).port;
}

async function exchange(port: number): Promise<void> {
  using conn = await connect(port);
  await conn.write(MESSAGE);
  await conn.closeWrite();
  const { length } = await readAll(conn);
  if (length !== GREETING.length + MESSAGE.length) {
    throw new Error(`an answer of ${length} bytes`);
  }
}

const servers: Record<string, number> = {
  "this service": ours("concurrent"),
  "this service, events": ours("events"),
  "minimal": loop(minimal),
  "pipeTo": loop(pipeTo),
  "node:net": await nodeNet(),
};

// Whatever runs first is slower: without this, the first server named.
Deno.bench("all of them, to warm up", async () => {
  for (const port of Object.values(servers)) await exchange(port);
});

for (const [name, port] of Object.entries(servers)) {
  Deno.bench({
    name,
    group: "one client at a time",
    baseline: name === "this service",
    fn: async () => await exchange(port),
  });
}

for (const [name, port] of Object.entries(servers)) {
  Deno.bench({
    name: `${name}, ${CROWD} at once`,
    group: `a crowd of ${CROWD}`,
    baseline: name === "this service",
    fn: async () => {
      await Promise.all(Array.from({ length: CROWD }, () => exchange(port)));
    },
  });
}
