/**
 * What a shutdown waits for, and how deadlines and an abort meet, on a network
 * in memory and a clock that stands still.
 */

import { assert, assertEquals } from "@std/assert";
import { serve } from "../../server.ts";
import { FakeClock } from "../testing/fake_clock.ts";
import { MemoryListener } from "../testing/memory_network.ts";
import { greeted, specOver } from "../testing/spec.ts";
import { GREETING } from "../testing/bytes.ts";
import { ask, readExactly, readText, send } from "../testing/clients.ts";
import { needs } from "../testing/needs.ts";
import { turns } from "../testing/timing.ts";
import { memory } from "../testing/transports.ts";

const inMemory = specOver([memory], ["concurrent"]);
const inEachMode = specOver([memory]);

inEachMode(
  "disposal lets exchanges in progress finish",
  {},
  async ({ server, connect, outcomes }) => {
    const client = await greeted(connect);
    const disposed = server[Symbol.asyncDispose]();
    await turns();
    assertEquals(await ask(client, "last words"), "last words");
    await disposed;
    assertEquals(await outcomes(1), ["echoed"]);
  },
);

inMemory(
  "a shutdown serves a thousand clients in the queue, one by one",
  { maxConnections: 1 },
  async ({ server, connectMany, exchanges }) => {
    const clients = await connectMany(1000);
    const stopped = server.shutdown();
    for (const client of clients) {
      assertEquals(await readExactly(client, GREETING.length), GREETING);
      await turns(1);
      assertEquals(await ask(client, "hoge"), "hoge");
    }
    await stopped;
    assertEquals(exchanges.all.length, 1000);
  },
);

// Deno polls some 128 operations per turn, so an accept may take some turns.
for (const [clients, delay] of [[0, 4], [100, 20]]) {
  inMemory(
    `a shutdown beside ${clients} clients waits ${delay} turns for an accept`,
    {},
    async (service) => {
      const { network: { listener }, server, connect, exchange } = service;
      const idle = await service.connectMany(clients);
      for (const client of idle) await readExactly(client, GREETING.length);
      const next = listener.next.bind(listener);
      listener.next = async () => {
        await turns(delay);
        return await next();
      };
      await exchange("hoge"); // by the accept that was pending
      const answer = ask(await connect(), "hoge");
      const stopped = server.shutdown();
      assertEquals(await answer, `${GREETING}hoge`);
      idle.forEach((client) => client.close());
      await stopped;
    },
  );
}

for (const end of ["shutdown", "abort"] as const) {
  inMemory(`${end} ends a back-off`, {}, async (service) => {
    const { network: { listener }, server, acceptErrors, clock } = service;
    for (let i = 0; i < 9; i++) listener.fail(new Error("odd"));
    await clock.run(acceptErrors.waitFor(9)); // now it waits for a second
    const before = clock.now;
    end === "abort" ? service.abort() : server.shutdown();
    await clock.run(server.finished);
    assertEquals(clock.now, before);
  });
}

inMemory(
  "a timeout stays one if an abort follows",
  { greeting: new Uint8Array(1 << 20), timeout: 100 },
  async ({ connect, server, outcomes, abort, clock }) => {
    await connect();
    await turns();
    clock.advance(100); // its write is stuck, so it is drained for 50 ms
    await turns();
    abort();
    await clock.run(server.finished);
    assertEquals(await outcomes(1), ["timeout"]);
  },
);

inMemory(
  "after a long stop, data may take three turns to arrive",
  {},
  async ({ connect, outcomes, clock }) => {
    const client = await greeted(connect);
    clock.now += 61_000;
    clock.advance(0);
    const sent = turns(3).then(() => send(client, "hoge"));
    assertEquals(await readText(client), "hoge");
    assertEquals(await outcomes(1), ["echoed"]);
    await sent;
  },
);

inMemory("closing the listener starts the grace", {}, async (service) => {
  const { network, server, connect, outcomes, clock } = service;
  await greeted(connect);
  network.listener.close();
  await clock.run(server.finished);
  assertEquals(await outcomes(1), ["shutdown"]);
  assertEquals(clock.now, 10_000);
});

needs(
  [],
  [],
  "a listener that fails in two ways is given up at a shutdown",
  async () => {
    using clock = new FakeClock();
    let failures = 0;
    const listener = new MemoryListener();
    listener.next = () => {
      const code = ++failures % 5 === 0 ? "EINVAL" : "EMFILE";
      return Promise.reject(Object.assign(new Error(), { code }));
    };
    const server = serve(listener, { grace: 0, onAcceptError: () => {} });
    await clock.run(server.shutdown());
    assert(clock.now <= 1000, `after ${clock.now} ms`);
  },
);
