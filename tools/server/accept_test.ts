/**
 * Tests of server.ts, by subject, on a network in memory and a clock that
 * stands still: faults, limits, and times to the millisecond. server_test.ts
 * has what any client can see.
 *
 * Here: accepting clients, and what happens when it fails.
 */

import { assert, assertEquals } from "@std/assert";
import { serve } from "../../server.ts";
import { GREETING } from "../testing/bytes.ts";
import { ask, readExactly, readText } from "../testing/clients.ts";
import { FakeClock } from "../testing/fake_clock.ts";
import { type MemoryConn, MemoryListener } from "../testing/memory_network.ts";
import { greeted, inEachMode, inMemory } from "../testing/spec.ts";
import { turn, turns } from "../testing/timing.ts";
import { errorOf, failEveryAccept, inSmallBuffers, stuck } from "./faults.ts";

// ------------------------------------------------------------- failing accepts

inEachMode("accepting goes on after every failure", {}, async (service) => {
  const { network: { listener }, exchange, acceptErrors, clock } = service;
  const codes = ["EMFILE", Symbol("EINVAL"), null, {}, 22];
  const failures = [undefined, null, ...codes.map(errorOf)];
  failures.forEach((error) => listener.fail(error));
  assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
  assertEquals(acceptErrors.all, failures);
});

inEachMode("a client that has gone is no failure", {}, async (service) => {
  const { network: { listener }, exchange, acceptErrors, clock } = service;
  listener.fail(new Deno.errors.NotConnected());
  listener.fail(new Deno.errors.ConnectionReset());
  listener.fail(new Deno.errors.ConnectionAborted());
  listener.fail(new Deno.errors.InvalidData()); // its address is not UTF-8
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  assertEquals([acceptErrors.all, clock.now], [[], 0]);
});

Deno.test("clients that go at once do not starve the event loop", async () => {
  let attempts = 0;
  const listener = failEveryAccept(new MemoryListener(), (attempt) => {
    attempts = attempt;
    if (attempt === 100) listener.close();
    return new Deno.errors.ConnectionReset();
  });
  await using _ = serve(listener);
  await turn();
  assert(attempts < 100, `${attempts} accepts in a turn`);
});

inMemory(
  "failing accepts back off, 5 ms doubling to 1 s",
  { timeout: 0 },
  async (service) => {
    const { network: { listener }, exchange, clock } = service;
    const times: number[] = [];
    service.onAcceptError = () => times.push(clock.now);
    for (let i = 0; i < 11; i++) listener.fail(errorOf("EMFILE"));
    await clock.run(exchange("hoge"));
    listener.fail(errorOf("EMFILE")); // the exchange has reset the back-off
    await clock.run(exchange("hoge"));
    times.push(clock.now);
    const waits = times.slice(1).map((time, i) => time - times[i]);
    const doubling = [5, 10, 20, 40, 80, 160, 320, 640];
    assertEquals(waits, [...doubling, 1000, 1000, 1000, 5]);
  },
);

inMemory("a back-off ends when a connection does", {}, async (service) => {
  const { network, connect, exchange, clock } = service;
  const client = await greeted(connect);
  network.listener.fail(errorOf("EMFILE"));
  await turns();
  await ask(client, "hoge");
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  assertEquals(clock.now, 0);
});

// ----------------------------------------------------------- how the server ends

const DEAD = [new Deno.errors.BadResource("it is closed")]
  .concat(["EBADF", "EINVAL", "ENOTSOCK", "EOPNOTSUPP"].map(errorOf));
for (const dead of DEAD) {
  inMemory(
    `${dead.message}: a listener that can never accept again ends the server`,
    {},
    async ({ network, server, connect, acceptErrors, clock }) => {
      const client = await greeted(connect);
      const failures = Array(6).fill(dead);
      failures.forEach((error) => network.listener.fail(error));
      assertEquals(await ask(client, "hoge"), "hoge");
      await clock.run(server.finished);
      assertEquals(acceptErrors.all, failures);
      assertEquals(network.listener.closes, 1);
    },
  );
}

inMemory("EINVAL now and then does not end the server", {}, async (service) => {
  const { network: { listener }, exchange, clock } = service;
  for (const other of [undefined, "EMFILE"]) {
    for (let i = 0; i < 4; i++) {
      for (let j = 0; j < 4; j++) listener.fail(errorOf("EINVAL"));
      if (other) listener.fail(errorOf(other));
      else assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
    }
  }
  for (let i = 0; i < 6; i++) listener.fail(errorOf("EMFILE"));
  listener.fail(errorOf("EINVAL"));
  assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
});

Deno.test("a listener whose iterator ends by itself is closed", async () => {
  const listener = new MemoryListener();
  listener[Symbol.asyncIterator] = async function* () {};
  await serve(listener).finished;
  assertEquals(listener.closes, 1);
});

Deno.test("an iterator that goes on after close() ends the server", async () => {
  using clock = new FakeClock();
  const listener = new MemoryListener();
  let accepted = 0;
  listener.close = () => {};
  listener[Symbol.asyncIterator] = async function* () {
    for (; accepted < 1000; accepted++) {
      await turns(1);
      clock.now++;
      const client = await listener.connect();
      yield (await listener.next()).value;
      client.close();
    }
  };
  const server = serve(listener, { grace: 0 });
  await clock.run(server.shutdown());
  assert(accepted < 1000, "only when its iterator ended");
});

Deno.test("an iterator that rejects after close() ends the server", async () => {
  using clock = new FakeClock();
  const errors: unknown[] = [];
  const listener = new MemoryListener();
  const next = async () => {
    await listener.next(); // it ends
    throw new Deno.errors.BadResource();
  };
  listener[Symbol.asyncIterator] = () => ({ next });
  const onAcceptError = (error: unknown) => errors.push(error);
  await clock.run(serve(listener, { onAcceptError }).shutdown());
  assertEquals(errors, []);
});

inMemory(
  "an iterator that cannot be made is a failure",
  {},
  async (service) => {
    const { network: { listener }, exchange, acceptErrors, clock } = service;
    const odd = new Error("odd");
    const iterate = listener[Symbol.asyncIterator];
    listener[Symbol.asyncIterator] = () => {
      listener[Symbol.asyncIterator] = iterate;
      throw odd;
    };
    listener.fail(odd);
    assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
    assertEquals(acceptErrors.all, [odd, odd]);
  },
);

// ------------------------------------------------------------ who must not wait

/** Waits until `size` clients are in the queue, and no fewer. */
async function waitForQueue(listener: MemoryListener, size: number) {
  for (let i = 0; i < 1000 && listener.queued > size; i++) await turn();
  await turns();
  assertEquals(listener.queued, size);
}

inSmallBuffers(
  "every 16th client is greeted, or 50 ms pass",
  {},
  async (service) => {
    const { network: { listener }, connectMany, exchange, clock } = service;
    listener.onAccept = stuck;
    const clients = await connectMany(56);
    await waitForQueue(listener, 40);
    await readExactly(clients[15], 100);
    for (const queued of [24, 8, 0]) {
      await waitForQueue(listener, queued);
      clock.advance(50);
    }
    listener.onAccept = () => {};
    assertEquals(await exchange("hoge"), GREETING + "hoge"); // nobody blocks it
  },
);

inMemory(
  "pacing takes no time if the connections are too many anyway",
  { maxConnections: 16 },
  async ({ network: { listener }, connectMany, exchange, clock }) => {
    let accepted = 0;
    listener.onAccept = (conn) => ++accepted === 16 ? stuck(conn) : undefined;
    const [first] = await connectMany(16);
    await turns();
    clock.advance(50);
    await turns();
    const answer = exchange("hoge");
    await ask(first, "hoge");
    assertEquals(await answer, GREETING + "hoge");
    assertEquals(clock.now, 50);
  },
);

inMemory(
  "without a greeting there is no pacing",
  { greeting: "" },
  async (service) => {
    const { network, connectMany } = service;
    await connectMany(40);
    await waitForQueue(network.listener, 0);
  },
);

inSmallBuffers(
  "clients that have gone, or never shake hands, do not block others",
  {},
  async (service) => {
    const { network: { listener }, connectMany, exchange, exchanges } = service;
    const write = () => Promise.reject(new Deno.errors.BrokenPipe());
    listener.onAccept = (conn) => Object.assign(conn, { write });
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

inEachMode("a connection without an address is closed", {}, async (service) => {
  const { network, server, connect, exchange, acceptErrors, clock } = service;
  const { listener } = network;
  const error = new Error("no address");
  const fail = () => {
    throw error;
  };
  const spoil = (conn: MemoryConn) => {
    const close = conn.close.bind(conn);
    conn.close = () => {
      close();
      fail();
    };
    Object.defineProperty(conn, "remoteAddr", { get: fail });
  };
  listener.onAccept = spoil;
  const next = listener.next.bind(listener);
  listener.next = () => { // once, after the accept that is pending
    listener.next = next;
    return Promise.resolve({ value: 5 as never }); // no connection at all
  };
  assertEquals(await readText(await connect()), "");
  listener.onAccept = () => {};
  assertEquals(await clock.run(exchange("hoge")), `${GREETING}hoge`);
  listener.onAccept = spoil; // as the last one before the shutdown too
  assertEquals(await readText(await connect()), "");
  const [first, second, ...others] = acceptErrors.all;
  assert(second instanceof TypeError, `${second}`);
  assertEquals([first, ...others], [error, error]);
  assertEquals(server.connections, 0);
});
