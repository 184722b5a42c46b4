import { assert, assertEquals } from "@std/assert";
import { type Conn, serve, type ServeOptions } from "../../server.ts";
import { countOutcomes, fuzz } from "./fuzz.ts";

Deno.test("fuzz: 2000 scripts", async () => {
  const runs = [];
  for (let seed = 1; seed <= 2000; seed++) runs.push(await fuzz(seed));
  const { echoed, eof, timeout, reset, shutdown, error } = countOutcomes(runs);
  assert(Math.min(echoed, eof, timeout, reset, shutdown) > 300);
  assertEquals(error, undefined);
});

Deno.test("fuzz: a seed gives the same run again", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const [one, other] = [await fuzz(seed), await fuzz(seed)];
    assertEquals(other.finished, one.finished);
    for (const [i, { events }] of one.clients.entries()) {
      assertEquals(other.clients[i].events, events);
    }
  }
});

// ------------------------------------------------------- the fuzz can fail

type Serve = typeof serve;

/** A server with other options than it was given. */
function withOptions(change: (options: ServeOptions) => ServeOptions): Serve {
  return (listener, options = {}) =>
    serve(listener, { ...options, ...change(options) });
}

/** A server whose connections do something else than it tells them. */
function withConns(change: (conn: Conn) => Partial<Conn>): Serve {
  const faulty = (conn: Conn): Conn => ({
    remoteAddr: conn.remoteAddr,
    read: (p) => conn.read(p),
    write: (p) => conn.write(p),
    closeWrite: () => conn.closeWrite(),
    close: () => conn.close(),
    ...change(conn),
  });
  return (listener, options) =>
    serve({
      addr: listener.addr,
      close: () => listener.close(),
      async *[Symbol.asyncIterator]() {
        const conns = {
          [Symbol.asyncIterator]: () => listener[Symbol.asyncIterator](),
        };
        for await (const conn of conns) yield faulty(conn);
      },
    }, options);
}

/** Each fault, and what the fuzz must say about it. */
const FAULTS: [fault: string, finding: string, server: Serve][] = [
  [
    "reports twice",
    "reported",
    withOptions(({ onExchange }) => ({
      onExchange: (exchange) => {
        onExchange!(exchange);
        return onExchange!(exchange);
      },
    })),
  ],
  [
    "reads a byte too many",
    "outcome",
    withOptions(({ maxBytes }) => ({ maxBytes: maxBytes! + 1 })),
  ],
  [
    "has another greeting",
    "bytes",
    withOptions(() => ({ greeting: new Uint8Array(5) })),
  ],
  [
    "expires late",
    "outcome",
    withOptions(({ timeout }) => ({ timeout: timeout! * 2 })),
  ],
  [
    "allows too much grace",
    "finished",
    withOptions(({ grace }) => ({ grace: grace! + 500 })),
  ],
  [
    "ignores an abort",
    "finished",
    withOptions(() => ({ signal: undefined })),
  ],
  [
    "accepts one too many",
    "maxConnections",
    withOptions(({ maxConnections }) => ({
      maxConnections: maxConnections! + 1,
    })),
  ],
  [
    "is never serial",
    "serial",
    withOptions(() => ({ mode: "concurrent" })),
  ],
  [
    "hides accept errors",
    "accept errors",
    withOptions(() => ({ onAcceptError: undefined })),
  ],
  [
    "leaves a timer",
    "timers",
    (listener, options) => {
      setTimeout(() => {}, 1e6);
      return serve(listener, options);
    },
  ],
  [
    "sends a client the bytes of another",
    "isolation",
    withConns((conn) => ({
      write: (p) => conn.write(p.map((byte) => byte < 16 ? byte : byte + 5)),
    })),
  ],
  [
    "does not close",
    "closed",
    withConns(() => ({ close: () => {} })),
  ],
  [
    "does not half-close",
    "EOF",
    withConns(() => ({ closeWrite: () => Promise.resolve() })),
  ],
  [
    "uses one buffer for all",
    "buffer",
    (listener, options = {}) => {
      const shared = new Uint8Array(options.maxBytes!);
      const read = (conn: Conn) => async (p: Uint8Array) => {
        if (p.length !== shared.length) return await conn.read(p);
        const n = await conn.read(shared);
        p.set(shared);
        return n;
      };
      return withConns((conn) => ({ read: read(conn) }))(listener, options);
    },
  ],
  [
    "lets a rejection go",
    "uncaught",
    withOptions(({ onExchange }) => ({
      onExchange: (exchange) => void onExchange!(exchange),
    })),
  ],
];

for (const [fault, finding, server] of FAULTS) {
  Deno.test(`fuzz: finds a server that ${fault}`, async () => {
    const findings: string[] = [];
    for (let seed = 1; seed <= 100 && !findings.includes(finding); seed++) {
      const { message } = await fuzz(seed, server).then(
        () => ({ message: "" }),
        (error) => error as Error,
      );
      findings.push(...message.split("\n").map((line) => line.split(":")[0]));
    }
    assert(findings.includes(finding), `only: ${[...new Set(findings)]}`);
  });
}
