/** Newcomers: clients that keep arriving while the server shuts down. */

import { assert, assertEquals } from "@std/assert";
import { GREETING } from "../testing/bytes.ts";
import { ask, type Conn, exchange } from "../testing/clients.ts";
import { withCommand } from "../testing/needs.ts";
import { ServerProcess } from "../testing/processes.ts";
import { inEachMode, inMemory, MODES } from "../testing/spec.ts";
import { Inbox, turns } from "../testing/timing.ts";
import type { MemoryListener } from "../testing/memory_network.ts";
import { beforeAccepts } from "./faults.ts";

/** From now on an accept takes two turns of 1 ms, and a newcomer arrives. */
function arriveForEver(
  listener: MemoryListener,
  clock: { now: number },
): Conn[] {
  const newcomers: Conn[] = [];
  beforeAccepts(listener, async () => {
    for (let turn = 0; turn < 2; turn++) {
      await turns(1);
      clock.now++;
    }
    if (!listener.closed) newcomers.push(await listener.connect());
  });
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

for (const mode of MODES) {
  withCommand(
    `TCP, ${mode}: a grace of 0 does not wait for newcomers`,
    async () => {
      await using command = new ServerProcess([
        "-p0",
        "--grace=0",
        "--mode",
        mode,
      ]);
      const port = await command.ready();
      const ends = new Inbox<string>();
      const arrive = () => exchange(port, "hoge").then(ends.push, ends.push);
      const arriving = setInterval(arrive, 3);
      await ends.waitFor(50);
      const { length } = ends.all;
      command.kill("SIGTERM");
      // Half a second is under 200 newcomers.
      const many = ends.waitFor(length + 1000).then(() => "many newcomers");
      assertEquals(await Promise.race([many, command.code()]), 0);
      clearInterval(arriving);
    },
  );
}
