/** Newcomers: clients that keep arriving while the server shuts down. */

import { assert, assertEquals } from "@std/assert";
import { GREETING } from "../testing/bytes.ts";
import { ask, type Conn } from "../testing/clients.ts";
import { needs } from "../testing/needs.ts";
import { start } from "../testing/service.ts";
import { inEachMode, inMemory, MODES } from "../testing/spec.ts";
import { turns } from "../testing/timing.ts";
import type { MemoryListener } from "../testing/memory_network.ts";
import { TRANSPORTS } from "../testing/transports.ts";

/** From now on an accept takes two turns of 1 ms, and a newcomer arrives. */
function arriveForEver(
  listener: MemoryListener,
  clock: { now: number },
): Conn[] {
  const newcomers: Conn[] = [];
  const next = listener.next.bind(listener);
  listener.next = async () => {
    for (let turn = 0; turn < 2; turn++) {
      await turns(1);
      clock.now++;
    }
    if (!listener.closed) newcomers.push(await listener.connect());
    return await next();
  };
  return newcomers;
}

inEachMode(
  "an abort ends within a second, whoever arrives",
  {},
  async ({ network: { listener }, server, exchange, abort, clock }) => {
    const newcomers = arriveForEver(listener, clock);
    await exchange("hoge"); // by the accept that was pending
    const before = clock.now;
    abort();
    await clock.run(server.finished);
    const ms = clock.now - before;
    assert(ms >= 500 && ms <= 1000, `after ${ms} ms`);
    assert(newcomers.length >= 250, `${newcomers.length} newcomers`);
  },
);

inMemory(
  "a shutdown closes the listener after half a second, and cuts nobody off",
  { timeout: 0 },
  async ({ network: { listener }, server, connectMany, exchanges, clock }) => {
    const clients = await connectMany(20);
    await turns();
    const newcomers = arriveForEver(listener, clock);
    clients.push(...await connectMany(1)); // by the accept that was pending
    const before = clock.now;
    const stopped = server.shutdown();
    while (!listener.closed) await turns(1);
    const ms = clock.now - before;
    assert(ms >= 500 && ms <= 520, `after ${ms} ms`);
    const answers = await Promise.allSettled(
      [...clients, ...newcomers].map((client) => ask(client, "hoge")),
    );
    await stopped;
    const accepted = answers.filter(({ status }) => status === "fulfilled");
    for (const answer of accepted) {
      assertEquals(answer, { status: "fulfilled", value: `${GREETING}hoge` });
    }
    // Only who connects in the very moment of the close is reset.
    assert(accepted.length >= answers.length - 2, `${accepted.length}`);
    assertEquals(exchanges.all.length, accepted.length);
  },
);

for (const { name, permissions, others, open } of TRANSPORTS.slice(1)) {
  for (const mode of MODES) {
    const title = `${name}, ${mode}: an abort does not wait for newcomers`;
    needs(permissions, others, title, async () => {
      await using service = start(await open(), { mode });
      const { server, exchange, exchanges, abort } = service;
      const arriving = setInterval(() => exchange("hoge").catch(() => {}), 3);
      const { length } = await exchanges.waitFor(20);
      abort();
      // Half a second is under 200 newcomers.
      const many = exchanges.waitFor(length + 600).then(() => "many");
      const end = await Promise.race([many, server.finished]);
      clearInterval(arriving);
      await server.finished;
      assertEquals(end, undefined);
    });
  }
}
