import { assert, assertEquals } from "@std/assert";
import { type Conn, serve, type ServeOptions } from "../../server.ts";
import { fuzz, fuzzAll } from "./fuzz.ts";
import {
  type ClientEvent,
  type Limit,
  possibleResults,
  tick,
  unstick,
} from "./model.ts";
import { scriptOf } from "./random_script.ts";

Deno.test("fuzz: random scripts", async () => {
  // Of the mutants of server.ts that were tried, the first thousand miss one.
  const seeds = Array.from({ length: 1000 }, (_, i) => 1103 + i);
  const { error, ...others } = await fuzzAll(seeds);
  assertEquals(Object.keys(others).length, 5);
  assert(Math.min(...Object.values(others)) > 150, Deno.inspect(others));
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

/** What a server does wrong with its options, or with its connections. */
interface Fault {
  options?: (given: Required<ServeOptions>) => ServeOptions;
  conn?: (conn: Conn, maxBytes: number) => Partial<Conn>;
}

function withFault({ options, conn: change }: Fault): typeof serve {
  return (listener, given) => {
    const all = given as Required<ServeOptions>;
    const conns = async function* () {
      for await (const conn of listener) {
        yield {
          remoteAddr: conn.remoteAddr,
          read: (p: Uint8Array) => conn.read(p),
          write: (p: Uint8Array) => conn.write(p),
          closeWrite: () => conn.closeWrite(),
          close: () => conn.close(),
          ...change?.(conn, all.maxBytes),
        };
      }
    };
    const { addr } = listener;
    const close = () => listener.close();
    return serve(
      { addr, close, [Symbol.asyncIterator]: conns },
      { ...all, ...options?.(all) },
    );
  };
}

/** The fuzz must say something about the fault that begins with `finding`. */
function finds(name: string, finding: string, fault: Fault): void {
  Deno.test(`fuzz: finds a server that ${name}`, async () => {
    const server = withFault(fault);
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

finds("reports twice", "reported", {
  options: ({ onExchange }) => ({
    onExchange: (exchange) => {
      onExchange(exchange);
      return onExchange(exchange);
    },
  }),
});

finds("reads a byte too many", "outcome", {
  options: ({ maxBytes }) => ({ maxBytes: maxBytes + 1 }),
});

finds("has another greeting", "bytes", {
  options: () => ({ greeting: new Uint8Array(5) }),
});

finds("expires late", "outcome", {
  options: ({ timeout }) => ({ timeout: timeout * 2 }),
});

finds("allows too much grace", "finished", {
  options: ({ grace }) => ({ grace: grace + 500 }),
});

finds("ignores an abort", "finished", {
  options: () => ({ signal: undefined }),
});

finds("accepts one too many", "maxConnections", {
  options: ({ maxConnections }) => ({ maxConnections: maxConnections + 1 }),
});

finds("is never serial", "serial", {
  options: () => ({ mode: "concurrent" }),
});

finds("hides accept errors", "accept errors", {
  options: () => ({ onAcceptError: undefined }),
});

finds("leaves a timer", "timers", {
  options: () => {
    setTimeout(() => {}, 1e6);
    return {};
  },
});

finds("sends a client the bytes of another", "isolation", {
  conn: (conn) => ({
    write: (p) => conn.write(p.map((byte) => byte < 16 ? byte : byte + 5)),
  }),
});

finds("does not close", "closed", {
  conn: () => ({ close: () => {} }),
});

finds("does not half-close", "EOF", {
  conn: () => ({ closeWrite: () => Promise.resolve() }),
});

const shared = new ArrayBuffer(5000);
finds("uses one buffer for all", "buffer", {
  conn: (conn, maxBytes) => ({
    async read(p) {
      if (p.length !== maxBytes) return await conn.read(p);
      const buffer = new Uint8Array(shared, 0, maxBytes);
      const n = await conn.read(buffer);
      p.set(buffer);
      return n;
    },
  }),
});

finds("lets a rejection go", "uncaught", {
  options: ({ onExchange }) => ({
    onExchange: (exchange) => void onExchange(exchange),
  }),
});

// --------------------------------------------------------------- the model

const SETTINGS = {
  ...scriptOf(1).settings,
  greeting: 5,
  maxBytes: 4,
  bufferSize: 7,
  maxRead: Infinity,
  maxWrite: Infinity,
};
const DEADLINE: Limit = {
  at: 100,
  turn: 0,
  outcome: "timeout",
  late: tick(SETTINGS),
};
const ABORT: Limit = { at: 50, turn: 50, outcome: "shutdown", late: 0 };

/** The time of an event is also its turn. */
function client(at: number, did: ClientEvent["did"], bytes = 0): ClientEvent {
  return { at, turn: at, did, bytes };
}

/** What is possible for an exchange that is accepted at 0. */
function possible(
  reported: number,
  events: ClientEvent[],
  limits: Limit[] = [],
): string[] {
  const accepted = { at: 0, turn: 0 };
  const report = { at: reported, turn: reported };
  return possibleResults(SETTINGS, accepted, report, events, limits)
    .map(({ outcome, bytes, at }) => `${outcome} ${bytes} at ${at}`);
}

const READS = client(0, "read", 5);

Deno.test("model: the first message is echoed", () => {
  const events = [READS, client(1, "send", 3), client(2, "send", 1)];
  assertEquals(possible(1, events), ["echoed 3 at 1"]);
});

Deno.test("model: at most maxBytes are echoed", () => {
  assertEquals(possible(1, [READS, client(1, "send", 5)]), ["echoed 4 at 1"]);
});

Deno.test("model: pieces within one turn may be read together", () => {
  const events = [READS, client(1, "send", 1), client(1, "send", 2)];
  assertEquals(possible(1, events), ["echoed 1 at 1", "echoed 3 at 1"]);
});

Deno.test("model: the echo waits until the client reads", () => {
  const events = [client(1, "send", 3), client(9, "read", 1)];
  assertEquals(possible(8, events), []);
  assertEquals(possible(9, events), ["echoed 3 at 9"]);
});

Deno.test("model: a half-close is eof, a reset is reset", () => {
  assertEquals(possible(2, [READS, client(2, "half-close")]), ["eof 0 at 2"]);
  assertEquals(possible(2, [READS, client(2, "reset")]), ["reset 0 at 2"]);
  assertEquals(possible(2, [READS, client(2, "close")]), ["eof 0 at 2"]);
});

Deno.test("model: a client that closes unread resets the echo", () => {
  const events = [client(1, "send", 3), client(2, "close")];
  assertEquals(possible(2, events), ["reset 2 at 2"]);
});

Deno.test("model: a deadline is never early, and late by a tick at most", () => {
  assertEquals(possible(99, [READS], [DEADLINE]), []);
  assertEquals(possible(100, [READS], [DEADLINE]), ["timeout 0 at 100"]);
  assertEquals(possible(121, [READS], [DEADLINE]), ["timeout 0 at 121"]);
  assertEquals(possible(122, [READS], [DEADLINE]), []);
});

Deno.test("model: what comes after the deadline may count", () => {
  const events = [READS, client(110, "send", 3)];
  assertEquals(possible(110, events, [DEADLINE]), [
    "echoed 3 at 110",
    "timeout 0 at 110",
  ]);
});

Deno.test("model: a client that does not read is drained first", () => {
  const events = [client(1, "send", 3)];
  const last = 100 + tick(SETTINGS) + unstick(SETTINGS);
  assertEquals(possible(last, events, [DEADLINE]), [`timeout 2 at ${last}`]);
  assertEquals(possible(last + 1, events, [DEADLINE]), []);
});

Deno.test("model: an abort takes effect within its turn", () => {
  assertEquals(possible(49, [READS], [ABORT]), []);
  assertEquals(possible(50, [READS], [ABORT]), ["shutdown 0 at 50"]);
  assertEquals(possible(51, [READS], [ABORT]), []);
});

Deno.test("model: a client accepted after an abort is not greeted", () => {
  const accepted = { at: 60, turn: 60 };
  const [{ written, outcome }, ...more] = possibleResults(
    SETTINGS,
    accepted,
    accepted,
    [],
    [ABORT],
  );
  assertEquals([outcome, written, more], ["shutdown", 0, []]);
});
