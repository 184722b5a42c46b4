/** Timeouts: when they end an exchange, and what they cost. */

import { assert, assertEquals } from "@std/assert";
import { digits } from "../testing/bytes.ts";
import { ask, readExactly, readText, send } from "../testing/clients.ts";
import { greeted, inMemory } from "../testing/spec.ts";
import { turns } from "../testing/timing.ts";
import { inSmallBuffers } from "./faults.ts";

inSmallBuffers(
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

inSmallBuffers(
  "of an echo that is cut, what was written counts",
  { greeting: "g".repeat(40), timeout: 100 },
  async ({ connect, exchanges, clock }) => {
    const client = await connect();
    await send(client, digits(100)); // there is room for 60 bytes of its echo
    await turns();
    const [{ outcome, bytes }] = await clock.run(exchanges.waitFor(1));
    assertEquals({ outcome, bytes }, { outcome: "timeout", bytes: 60 });
  },
);

inSmallBuffers(
  "nothing is read once the time is up",
  { greeting: "g".repeat(150), timeout: 100 },
  async ({ connect, outcomes, clock }) => {
    const client = await connect();
    await turns();
    clock.advance(100);
    await turns();
    assertEquals(await readText(client), "g".repeat(150));
    assertEquals(await outcomes(1), ["timeout"]);
    assertEquals(clock.now, 100);
  },
);

// ------------------------------------------------- if the process was stopped

inMemory("after a long stop, data may take some turns", {}, async (service) => {
  const { connect, outcomes, clock } = service;
  const clients = [];
  for (let i = 0; i < 20; i++) clients.push(await greeted(connect));
  clock.now += 61_000;
  clock.advance(0);
  for (const client of clients) {
    await turns(3);
    await send(client, "hoge").catch(() => {}); // then its outcome tells
  }
  assertEquals(await outcomes(20), Array(20).fill("echoed"));
});

inMemory("others delay a timeout for some turns only", {}, async (service) => {
  const { connect, exchange, exchanges, clock } = service;
  await greeted(connect);
  clock.advance(60_000);
  for (let i = 0; i < 100; i++) {
    await exchange("hoge");
    await turns(1);
  }
  const expired = exchanges.all.filter(({ outcome }) => outcome === "timeout");
  assertEquals(expired.length, 1);
});

// Deno polls some 128 operations per turn: a read and an echo of 64 clients.
// There are 64 turns more than that.
inMemory("after a long stop, a crowd takes its turns", {}, async (service) => {
  const { connectMany, outcomes, clock } = service;
  const clients = await connectMany(3000);
  await turns();
  clock.now += 61_000;
  clock.advance(0);
  for (const [i, client] of clients.entries()) {
    if (i % 30 === 0) await turns(1); // 100, of 64 + 3000 / 64
    await send(client, "hoge").catch(() => {}); // then its outcome tells
  }
  assertEquals(new Set(await outcomes(3000)), new Set(["echoed"]));
});

// --------------------------------------------------------------------- timers

inMemory(
  "deadlines share a timer, for 20 ms each time",
  {},
  async (service) => {
    const { connect, exchanges, clock } = service;
    for (let i = 0; i < 100; i++) {
      await greeted(connect);
      clock.advance(1);
    }
    await clock.run(exchanges.waitFor(100));
    const isForDeadlines = (ms: number) => ms > 0 && ms !== 50; // or of pacing
    const timers = clock.delays.filter(isForDeadlines);
    assert(timers.length <= 8, `${timers}`);
    assert(exchanges.all.every(({ ms }) => ms >= 60_000 && ms <= 60_020));
  },
);

inMemory("a timer that finds nothing due is set anew", {}, async (service) => {
  const { connect, clock } = service;
  const client = await greeted(connect);
  clock.advance(100);
  await greeted(connect);
  await ask(client, "hoge");
  await turns();
  const before = clock.delays.length;
  clock.advance(59_900);
  assertEquals(clock.delays.slice(before), [100]); // no turn is spent
});

for (const step of [0.3, 30]) {
  inMemory(
    `if each look at the clock takes ${step} ms, delays are whole and >= 0`,
    { timeout: 10, grace: 0 },
    async ({ server, connectMany, exchanges, clock }) => {
      performance.now = () => clock.now += step;
      for (let round = 1; round <= 5; round++) {
        await connectMany(20);
        await clock.run(exchanges.waitFor(20 * round));
      }
      await server.shutdown();
      // Deno cuts them to whole numbers, and a timer would fire too early.
      const isRight = (ms: number) => ms >= 0 && Number.isInteger(ms);
      assertEquals(clock.delays.filter((ms) => !isRight(ms)), []);
    },
  );
}

inMemory(
  "a deadline between two milliseconds takes no longer",
  { timeout: 100.5 },
  async ({ connect, outcomes, clock }) => {
    await connect();
    assertEquals(await clock.run(outcomes(1)), ["timeout"]);
    assertEquals(clock.now, 101);
  },
);

inMemory(
  "no timer is longer than Deno's can be",
  { timeout: 2 ** 31 - 1 },
  async ({ connect, clock }) => {
    clock.advance(1.03); // sums of such fractions are rounded up
    await greeted(connect);
    assert(clock.delays.every((ms) => ms < 2 ** 31), `${clock.delays}`);
  },
);

inMemory(
  "a connection that is slow to close is not closed again and again",
  { timeout: 100 },
  async ({ network: { listener }, connect, outcomes, clock }) => {
    let closes = 0;
    listener.onAccept = (conn) => {
      const close = conn.close.bind(conn);
      conn.close = () =>
        ++closes === 1 ? void setTimeout(close, 1000) : close();
    };
    await greeted(connect);
    assertEquals(await clock.run(outcomes(1)), ["timeout"]);
    assertEquals([closes, clock.now], [2, 1100]);
  },
);
