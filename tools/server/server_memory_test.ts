/**
 * What a network in memory and a clock that stands still can show: faults,
 * limits, and times to the millisecond.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import { serve } from "../../server.ts";
import { FakeClock } from "../testing/fake_clock.ts";
import { type MemoryConn, MemoryListener } from "../testing/memory_network.ts";
import { start } from "../testing/service.ts";
import { greeted, specOver } from "../testing/spec.ts";
import { digits, GREETING } from "../testing/bytes.ts";
import {
  ask,
  readAll,
  readExactly,
  readText,
  send,
} from "../testing/clients.ts";
import { needs } from "../testing/needs.ts";
import { turn, turns } from "../testing/timing.ts";
import { memory, memoryNetwork, transport } from "../testing/transports.ts";

const inMemory = specOver([memory], ["concurrent"]);
const inEachMode = specOver([memory]);
const inSerial = specOver([memory], ["serial"]);
/** A network with small buffers. */
const small = transport(
  "memory",
  [],
  [],
  () => memoryNetwork({ bufferSize: 100 }),
);
const unblocked = specOver([small], ["concurrent", "events"]);
const inSmall = specOver([small], ["concurrent"]);

async function waitForQueue(listener: MemoryListener, size: number) {
  for (let i = 0; i < 1000 && listener.queued > size; i++) await turn();
  await turns();
  assertEquals(listener.queued, size); // reached, and not exceeded
}

/** Fills the client's buffer, so that the server's writes are stuck. */
const stuck = (conn: MemoryConn) =>
  void conn.write(new Uint8Array(conn.options.bufferSize));

const emfile = () =>
  Object.assign(new Error("Too many open files"), { code: "EMFILE" });

function fault(): never {
  throw new Error("a fault");
}

// ------------------------------------------------------------------------ faults

inEachMode("short reads and writes", {}, async (service) => {
  const { network: { listener }, connect, exchanges } = service;
  listener.onAccept = (conn) => {
    const write = conn.write.bind(conn);
    conn.write = (p) => write(p.subarray(0, 3));
  };
  const client = await connect();
  assertEquals(await ask(client, "hoge\r\n"), GREETING + "hoge\r\n");
  assertEquals(exchanges.all[0].bytes, 6);
});

inEachMode("each failure has its outcome", {}, async (service) => {
  const { network: { listener }, connect, outcomes } = service;
  const rejects = (error: Error) => () => Promise.reject(error);
  const faults: Partial<MemoryConn>[] = [
    { write: rejects(new Deno.errors.BrokenPipe()) },
    { read: rejects(new Deno.errors.ConnectionReset()) },
    { read: rejects(new Deno.errors.ConnectionAborted()) },
    { read: rejects(new Error("odd")) },
    { read: rejects(new Deno.errors.UnexpectedEof()) },
    { read: () => Promise.resolve(null) },
  ];
  for (const fault of faults) {
    listener.onAccept = (conn) => Object.assign(conn, fault);
    await readText(await connect());
  }
  listener.onAccept = () => {};
  assertEquals(await ask(await connect(), "last"), GREETING + "last");
  const expected = ["reset", "reset", "reset", "error", "eof", "eof", "echoed"];
  assertEquals(await outcomes(7), expected);
});

inEachMode("accepting goes on after every failure", {}, async (service) => {
  const { network: { listener }, exchange, acceptErrors, clock } = service;
  listener.fail(new Deno.errors.NotConnected());
  assertEquals(await exchange("a"), GREETING + "a");
  const full = emfile();
  listener.fail(full);
  listener.fail(new Deno.errors.ConnectionAborted());
  assertEquals(await clock.run(exchange("b")), GREETING + "b");
  // A client that did not wait is no error.
  assertEquals(acceptErrors.all, [full]);
});

inEachMode("a callback may abort", { timeout: 50 }, async (service) => {
  const { server, connectMany, outcomes, abort, clock } = service;
  service.onExchange = abort;
  await connectMany(4);
  await clock.run(server.shutdown());
  const [first, ...others] = await outcomes(4);
  assertEquals(first, "timeout");
  assertEquals(others.length, 3);
});

inEachMode(
  "callbacks and console.error that throw are isolated",
  {},
  async (service) => {
    const { server, connect, exchange } = service;
    service.onExchange = fault;
    const { error } = console;
    console.error = fault;
    try {
      assertEquals(await exchange("first"), GREETING + "first");
      const clients = [await connect(), await connect()];
      await turns();
      const answers = clients.map((client, i) => ask(client, `client ${i}`));
      await server.shutdown();
      const expected = [`${GREETING}client 0`, `${GREETING}client 1`];
      assertEquals(await Promise.all(answers), expected);
    } finally {
      console.error = error;
    }
  },
);

inMemory("what callbacks throw is printed", {}, async (service) => {
  const { network, exchange, clock } = service;
  const printed: unknown[] = [];
  const { error } = console;
  console.error = (what: unknown) => void printed.push(what);
  try {
    const thrown = new Error("in a callback");
    service.onExchange = () => {
      throw thrown;
    };
    service.onAcceptError = () => ({
      then: (_: unknown, reject: (error: Error) => void) => reject(thrown),
    });
    assertEquals(await exchange("hoge"), GREETING + "hoge");
    network.listener.fail(new Error("odd"));
    assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
    service.onExchange = () => Promise.reject(thrown);
    assertEquals(await exchange("hoge"), GREETING + "hoge");
    await turns();
    assertEquals(printed, [thrown, thrown, thrown, thrown]);
  } finally {
    console.error = error;
  }
});

inEachMode(
  "after an abort nobody in the queue is greeted",
  { maxConnections: 1 },
  async ({ network, server, connect, connectMany, outcomes, abort }) => {
    const first = await greeted(connect);
    const queued = await connectMany(199);
    await waitForQueue(network.listener, 199);
    abort();
    await server.finished;
    assertEquals(network.listener.queued, 0);
    const texts = await Promise.all([first, ...queued].map(readText));
    assertEquals(texts.join(""), "");
    assertEquals(await outcomes(200), Array(200).fill("shutdown"));
  },
);

inEachMode(
  "the end of the grace is an abort",
  { maxConnections: 1, grace: 100 },
  async ({ network, server, connect, connectMany, outcomes, clock }) => {
    const first = await greeted(connect);
    const queued = await connectMany(2);
    await clock.run(server.shutdown());
    assertEquals(clock.now, 100);
    assertEquals(network.listener.queued, 0);
    const texts = await Promise.all([first, ...queued].map(readText));
    assertEquals(texts, ["", "", ""]);
    assertEquals(await outcomes(3), Array(3).fill("shutdown"));
  },
);

inMemory(
  "the grace ends while out of file descriptors",
  { grace: 0 },
  async ({ network, server, connect, connectMany, clock }) => {
    await greeted(connect);
    for (let i = 0; i < 3; i++) network.listener.fail(emfile());
    const queued = await connectMany(100);
    await Promise.all(queued.map((client) => send(client, "hoge")));
    await clock.run(server.shutdown());
    assertEquals(network.listener.queued, 0);
    await Promise.all(queued.map(readAll));
  },
);

inSmall(
  "nothing is read once the time is up",
  { greeting: "g".repeat(150), timeout: 100 },
  async ({ connect, outcomes, clock }) => {
    const client = await connect();
    clock.advance(100);
    await turns();
    assertEquals(await readText(client), "g".repeat(150));
    assertEquals(await outcomes(1), ["timeout"]);
    assertEquals(clock.now, 100);
  },
);

inSmall(
  "the timeout is for the whole exchange",
  { greeting: "g".repeat(150), timeout: 100 },
  async ({ connect, exchanges, clock }) => {
    const client = await connect();
    clock.advance(60);
    await readExactly(client, 150);
    await turns(); // now it waits for the client
    const [{ outcome, ms }] = await clock.run(exchanges.waitFor(1));
    assertEquals({ outcome, ms }, { outcome: "timeout", ms: 100 });
  },
);

inMemory("counts its connections", {}, async (service) => {
  const { server, connect, exchange } = service;
  assertEquals(server.connections, 0);
  const silent = await greeted(connect);
  const drained = await connect();
  await ask(drained, "x".repeat(1024));
  assertEquals(server.connections, 2);
  drained.close();
  await exchange("hoge");
  assertEquals(server.connections, 1);
  await ask(silent, "hoge");
  await turns();
  assertEquals(server.connections, 0);
});

inSmall(
  "a read buffer is never shared",
  { greeting: "g".repeat(60) },
  async ({ exchange, connect }) => {
    await exchange("a");
    const slow = await connect();
    await send(slow, "b".repeat(100)); // most of its echo must wait
    await exchange("c".repeat(100));
    assertEquals(await readText(slow), "g".repeat(60) + "b".repeat(100));
  },
);

inMemory(
  "maxConnections is reached and never exceeded",
  { maxConnections: 2 },
  async ({ network, connectMany }) => {
    const clients = await connectMany(5);
    for (const [i, client] of clients.entries()) {
      assertEquals(await readExactly(client, GREETING.length), GREETING);
      await waitForQueue(network.listener, Math.max(0, 3 - i));
      if (i % 2 === 0) await send(client, "hoge");
      else await client.closeWrite();
      await readAll(client);
    }
  },
);

inSerial(
  "the second connection is not even accepted",
  {},
  async ({ network, connect }) => {
    const first = await greeted(connect);
    const second = await connect();
    await waitForQueue(network.listener, 1);
    assertEquals(await ask(first, "one"), "one");
    assertEquals(await ask(second, "two"), GREETING + "two");
  },
);

unblocked(
  "clients that never read do not block others",
  {},
  async ({ network, connectMany, exchange, clock }) => {
    let accepted = 0;
    network.listener.onAccept = (conn) => {
      if (++accepted <= 200) stuck(conn);
    };
    await connectMany(200);
    assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
    assertEquals(clock.now, 12 * 50); // one pause in 16 clients
  },
);

inSmall("every 16th client is greeted, or 50 ms pass", {}, async (service) => {
  const { network: { listener }, connectMany, clock } = service;
  listener.onAccept = stuck;
  await connectMany(40);
  for (const queued of [24, 8, 0]) {
    await waitForQueue(listener, queued);
    clock.advance(50);
  }
});

inMemory(
  "without a greeting there is no pacing",
  { greeting: "" },
  async (service) => {
    const { network, connectMany } = service;
    await connectMany(40);
    await waitForQueue(network.listener, 0);
  },
);

inMemory(
  "clients that have gone, or never shake hands, do not block others",
  {},
  async (service) => {
    const { network: { listener }, connectMany, exchange, exchanges } = service;
    const fail = () => Promise.reject(new Deno.errors.BrokenPipe());
    listener.onAccept = (conn) => Object.assign(conn, { write: fail });
    await connectMany(64);
    await exchanges.waitFor(64);
    listener.onAccept = (conn) => {
      stuck(conn);
      Object.assign(conn, { handshake: () => {} });
    };
    await connectMany(64);
    await waitForQueue(listener, 0);
    listener.onAccept = () => {};
    assertEquals(await exchange("hoge"), GREETING + "hoge");
    assertEquals(exchanges.all.length, 65);
  },
);

// ------------------------------------------------------------- clock and timers

inMemory(
  "failing accepts back off, 5 ms doubling to 1 s",
  { timeout: 0 },
  async (service) => {
    const { network: { listener }, exchange, clock } = service;
    const times: number[] = [];
    service.onAcceptError = () => times.push(clock.now);
    for (let i = 0; i < 11; i++) listener.fail(emfile());
    await clock.run(exchange("hoge"));
    listener.fail(emfile()); // the exchange has reset the back-off
    await clock.run(exchange("hoge"));
    times.push(clock.now);
    const waits = times.slice(1).map((time, i) => time - times[i]);
    assertEquals(waits, [
      5,
      10,
      20,
      40,
      80,
      160,
      320,
      640,
      1000,
      1000,
      1000,
      5,
    ]);
  },
);

inMemory("a back-off ends when a connection does", {}, async (service) => {
  const { network, connect, exchange, clock } = service;
  const client = await greeted(connect);
  network.listener.fail(emfile());
  await turns();
  await ask(client, "hoge");
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  assertEquals(clock.now, 0);
});

inMemory(
  "data that has arrived is read before a timeout",
  {},
  async (service) => {
    const { connect, outcomes, clock } = service;
    const client = await greeted(connect);
    setTimeout(() => send(client, "hoge").catch(() => {}), 0); // next turn
    clock.advance(60_000);
    assertEquals(await readText(client), "hoge");
    assertEquals(await outcomes(1), ["echoed"]);
  },
);

inMemory("thousands of connections share one timer", {}, async (service) => {
  const { connectMany, outcomes, clock } = service;
  await connectMany(5000);
  await clock.run(outcomes(5000));
  assert((await outcomes(5000)).every((outcome) => outcome === "timeout"));
  const { length } = clock.delays;
  assert(length > 0 && length < 100, `${length} timers`);
});

inMemory("deadlines within 20 ms expire together", {}, async (service) => {
  const { connect, exchanges, clock } = service;
  for (let i = 0; i < 100; i++) {
    await greeted(connect);
    clock.advance(1);
  }
  const before = clock.delays.length;
  await clock.run(exchanges.waitFor(100));
  const timers = clock.delays.slice(before).filter((ms) => ms > 0);
  assertEquals(timers.slice(1), [20, 20, 20, 20, 20]);
  assert(exchanges.all.every(({ ms }) => ms >= 60_000 && ms <= 60_020));
});

inMemory(
  "no timer is set to a negative delay",
  { timeout: 1, grace: 0 },
  async ({ server, connectMany, exchanges, clock }) => {
    performance.now = () => clock.now += 30; // time flies
    for (let round = 1; round <= 5; round++) {
      await connectMany(20);
      await clock.run(exchanges.waitFor(20 * round));
    }
    await server.shutdown();
    assertEquals(clock.delays.filter((ms) => !(ms >= 0)), []);
  },
);

inMemory(
  "the grace ends between two deadlines",
  { timeout: 100, grace: 70 },
  async ({ server, connect, exchanges, clock }) => {
    await greeted(connect); // until 100
    clock.advance(50);
    await greeted(connect); // until 150
    await clock.run(server.shutdown()); // until 120
    const ends = exchanges.all.map(({ outcome, ms }) => [outcome, ms]);
    assertEquals(ends, [["timeout", 100], ["shutdown", 70]]);
  },
);

// ------------------------------------------------------------------ how it ends

/** Counts how often it is closed. */
class CountingListener extends MemoryListener {
  closes = 0;

  override close(): void {
    this.closes++;
    super.close();
  }
}

Deno.test("a signal that is aborted already ends the server", async () => {
  const listener = new CountingListener();
  await serve(listener, { signal: AbortSignal.abort() }).finished;
  assertEquals(listener.closes, 1);
});

Deno.test("the server removes its abort listener", async () => {
  const { signal } = new AbortController();
  const listeners = new Set();
  signal.addEventListener = (_type: string, f: unknown) => listeners.add(f);
  signal.removeEventListener = (_type: string, f: unknown) =>
    listeners.delete(f);
  const server = serve(new MemoryListener(), { signal });
  assertEquals(listeners.size, 1);
  await server.shutdown();
  assertEquals(listeners.size, 0);
});

inMemory(
  "a listener closed from outside ends the server",
  {},
  async (service) => {
    const { network, server, connect, outcomes } = service;
    const client = await greeted(connect);
    network.listener.close();
    assertEquals(await ask(client, "hoge"), "hoge");
    await server.finished;
    await server.shutdown();
    assertEquals(await outcomes(1), ["echoed"]);
  },
);

Deno.test("a listener that can never accept again ends the server", async () => {
  const codes = ["EBADF", "EINVAL", "ENOTSOCK", "EOPNOTSUPP"];
  const errors = [
    new Deno.errors.BadResource(),
    ...codes.map((code) => Object.assign(new TypeError("fatal"), { code })),
  ];
  for (const dead of errors) {
    using clock = new FakeClock();
    const listener = new CountingListener();
    const connect = () => listener.connect();
    await using service = start({ listener, connect, lots: 0 });
    const client = await greeted(service.connect);
    const failures = [5, 10, 20, 40, 80, 160].map(() => dead);
    failures.forEach((error) => listener.fail(error));
    assertEquals(await ask(client, "hoge"), "hoge");
    await clock.run(service.server.finished);
    assertEquals(service.acceptErrors.all, failures);
    assertEquals(listener.closes, 1);
  }
});

inMemory("a single EINVAL does not end the server", {}, async (service) => {
  const { network: { listener }, exchange, clock } = service;
  listener.fail(Object.assign(new TypeError("once"), { code: "EINVAL" }));
  assertEquals(await clock.run(exchange("hoge")), `${GREETING}hoge`);
});

Deno.test("an iterator that throws does not reject finished", async () => {
  using clock = new FakeClock();
  const listener = new MemoryListener();
  let calls = 0;
  const iterator = () => {
    if (++calls === 2) throw new Error("no iterator");
    return listener;
  };
  Object.defineProperty(listener, Symbol.asyncIterator, { value: iterator });
  await using service = start({
    listener,
    connect: () => listener.connect(),
    lots: 0,
  });
  listener.fail(new Error("odd"));
  const answer = service.exchange("hoge");
  assertEquals(await clock.run(answer), `${GREETING}hoge`);
  assertEquals(calls, 3);
});

inSmall(
  "an echo still being written at an abort does not linger",
  { greeting: "", maxBytes: 100 },
  async ({ network, connect, server, outcomes, abort, clock }) => {
    network.listener.onAccept = stuck;
    const client = await connect();
    await send(client, digits(100));
    await turns(); // it has been read, and its echo cannot be written
    abort();
    await turns();
    await readExactly(client, 200); // now it can
    await clock.run(server.finished);
    assertEquals(await outcomes(1), ["echoed"]);
    assertEquals(clock.now, 0);
  },
);

inMemory(
  "a stuck write is drained for 50 ms also when the grace is over",
  { greeting: new Uint8Array(1 << 20), grace: 0 },
  async ({ connect, server, abort, clock }) => {
    const client = await connect();
    await turns();
    abort();
    await turns();
    await send(client, "late");
    const before = clock.now;
    await clock.run(server.finished);
    assertEquals(clock.now - before, 50);
    await readAll(client); // a reset would reject
  },
);

inMemory("a rejection with undefined is an error", {}, async (service) => {
  const { network: { listener }, connect, exchange, outcomes, clock } = service;
  listener.fail(undefined);
  assertEquals(await clock.run(exchange("hoge")), `${GREETING}hoge`);
  listener.onAccept = (conn) => {
    conn.read = () => Promise.reject(undefined);
  };
  await readText(await connect());
  assertEquals(await outcomes(2), ["echoed", "error"]);
});

Deno.test("a greeting in a Node.js Buffer is copied too", async () => {
  const greeting = Buffer.from("hello");
  await using service = start(memoryNetwork(), { greeting });
  greeting.fill(88);
  assertEquals(await service.exchange("hoge"), "hellohoge");
});

/** A listener that never accepts a connection. */
class RejectingListener extends MemoryListener {
  constructor(readonly error: Error) {
    super();
  }

  override next(): ReturnType<MemoryListener["next"]> {
    return this.closed ? super.next() : Promise.reject(this.error);
  }
}

needs(
  [],
  [],
  "endless disconnects do not starve the event loop",
  async () => {
    const listener = new RejectingListener(new Deno.errors.ConnectionReset());
    const server = serve(listener);
    await turn();
    await server.shutdown();
  },
);

needs(
  [],
  [],
  "a listener whose iterator rejects after close() ends the server",
  async () => {
    using clock = new FakeClock();
    const listener = new MemoryListener();
    const errors: unknown[] = [];
    const own = {
      addr: listener.addr,
      close: () => listener.close(),
      async *[Symbol.asyncIterator]() {
        while (true) {
          const { done, value } = await listener.next();
          if (done) throw new Deno.errors.BadResource();
          yield value;
        }
      },
    };
    const server = serve(own, { onAcceptError: (error) => errors.push(error) });
    await clock.run(server.shutdown());
    assertEquals(errors, []);
  },
);

Deno.test("what is not a listener is refused", () => {
  for (const options of [{ port: 0 }, undefined, null, "30000"]) {
    const listener = options as unknown as MemoryListener;
    assertThrows(() => serve(listener), TypeError, "listener must be");
  }
});

Deno.test("accept errors are printed unless there is a callback", async () => {
  const printed: unknown[] = [];
  const { error } = console;
  console.error = (what: unknown) => void printed.push(what);
  try {
    const listener = new MemoryListener();
    await using _ = serve(listener, { grace: 0 });
    const failure = new Error("odd");
    listener.fail(failure);
    await turns();
    assertEquals(printed, [failure]);
  } finally {
    console.error = error;
  }
});

needs(
  [],
  [],
  "out of file descriptors, shutdown ends within a second",
  async () => {
    using clock = new FakeClock();
    const server = serve(new RejectingListener(emfile()), {
      grace: 0,
      onAcceptError() {},
    });
    await clock.run(server.shutdown());
    assert(clock.now <= 1000, `after ${clock.now} ms`);
  },
);

inMemory(
  "a single EINVAL after a lack of descriptors does not end the server",
  {},
  async (service) => {
    const { network: { listener }, exchange, clock } = service;
    for (let i = 0; i < 6; i++) listener.fail(emfile());
    listener.fail(Object.assign(new TypeError("once"), { code: "EINVAL" }));
    assertEquals(await clock.run(exchange("hoge")), `${GREETING}hoge`);
  },
);

needs(
  [],
  [],
  "a listener whose iterator ends by itself is closed",
  async () => {
    const listener = new CountingListener();
    const own = {
      addr: listener.addr,
      close: () => listener.close(),
      async *[Symbol.asyncIterator]() {},
    };
    await serve(own).finished;
    assertEquals(listener.closes, 1);
  },
);
