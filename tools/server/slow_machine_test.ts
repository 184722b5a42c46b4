/** A shutdown on a machine that is slow, or was stopped meanwhile. */

import { assert, assertEquals } from "@std/assert";
import { answers, askEach, send } from "../testing/clients.ts";
import { inMemory } from "../testing/spec.ts";
import { turns } from "../testing/timing.ts";

inMemory(
  "stopped for a second during a shutdown: the queue is served",
  {},
  async ({ network: { listener }, server, connectMany, clock }) => {
    const next = listener.next.bind(listener);
    let accepts = 0;
    listener.next = async () => { // not all of them in one turn
      if (++accepts % 32 === 0) await turns(1);
      return await next();
    };
    const clients = await connectMany(500);
    const stopped = server.shutdown();
    await turns(2);
    clock.now += 1000;
    assertEquals(await askEach(clients), answers(500));
    await stopped;
  },
);

inMemory(
  "a slow machine: a shutdown serves 4096 clients, 128 a turn of 100 ms",
  {},
  async ({ network: { listener }, server, connectMany, clock }) => {
    const next = listener.next.bind(listener);
    let accepts = 0;
    listener.next = async () => {
      if (++accepts % 128 === 0) {
        await turns(1);
        clock.now += 100;
      }
      return await next();
    };
    const clients = await connectMany(4096);
    const stopped = server.shutdown();
    assertEquals(await askEach(clients), answers(4096));
    await stopped;
  },
);

inMemory(
  "a slow machine: a grace of 0 ends within a second",
  { grace: 0, mode: "serial" },
  async ({ network: { listener }, server, connectMany, clock }) => {
    listener.onAccept = (conn) => {
      const read = conn.read.bind(conn);
      conn.read = async (into) => {
        await turns(1);
        clock.now += 50;
        return await read(into);
      };
    };
    const clients = await connectMany(200);
    for (const client of clients) await send(client, "hoge");
    const before = clock.now;
    await clock.run(server.shutdown());
    assert(clock.now - before <= 1000, `after ${clock.now - before} ms`);
  },
);

inMemory(
  "a shutdown serves the queue on a slow machine too",
  {},
  async ({ network: { listener }, server, connectMany, exchanges, clock }) => {
    listener.onAccept = (conn) => {
      const write = conn.write.bind(conn);
      conn.write = async (p) => {
        await turns(1);
        clock.now += 5; // for each of 1000 greetings and echoes
        return await write(p);
      };
    };
    const connected = connectMany(1000);
    const stopped = server.shutdown();
    const asked = askEach(await connected);
    await clock.run(stopped);
    assertEquals(await asked, answers(1000));
    assertEquals(exchanges.all.length, 1000);
  },
);
