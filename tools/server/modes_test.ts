/** What tells the modes apart. */

import { assert, assertEquals } from "@std/assert";
import type { Mode } from "../../server.ts";
import { GREETING } from "../testing/bytes.ts";
import { ask, send } from "../testing/clients.ts";
import { greeted, specOver } from "../testing/spec.ts";
import { memory } from "../testing/transports.ts";
import { turns } from "../testing/timing.ts";
import { waitForQueue } from "./faults.ts";

/**
 * Ten clients connect, and ten that have been greeted speak meanwhile. `then` is told
 * what the server begins to write, and after how many microtasks.
 */
function reactions(
  mode: Mode,
  title: string,
  then: (writes: [string, number][]) => void,
) {
  specOver([memory], [mode])(
    title,
    { greeting: "!" },
    async ({ network: { listener }, connectMany }) => {
      const writes: [string, number][] = [];
      let microtasks = 0;
      listener.onAccept = (conn) => {
        const write = conn.write.bind(conn);
        conn.write = (p) => {
          writes.push([p[0] === 33 ? "greeting" : "echo", microtasks]);
          return write(p);
        };
      };
      const clients = await connectMany(10);
      await turns();
      writes.length = 0;
      connectMany(10);
      while (microtasks++ < 10) await undefined; // the first is accepted
      for (const client of clients) send(client, "hoge");
      while (microtasks++ < 1000) await undefined;
      assertEquals(writes.length, 20);
      then(writes);
    },
  );
}

reactions("concurrent", "whoever speaks is answered at once", (writes) => {
  const times = writes.filter(([what]) => what === "echo").map(([, time]) =>
    time
  );
  assertEquals(new Set(times).size, 1); // each in its own task
});

reactions(
  "events",
  "accepts and reads wait in one queue, in order",
  (writes) => {
    const times = writes.map(([, time]) => time);
    assertEquals(new Set(times).size, 20); // one loop, one by one
    // Whoever is accepted waits in the same queue as those who have spoken.
    const order = writes.map(([what]) => what);
    assert(order.indexOf("greeting") < order.lastIndexOf("echo"), `${order}`);
  },
);

specOver([memory], ["serial"])(
  "the second client stays in the queue",
  {},
  async ({ network, connect, connectMany }) => {
    const first = await greeted(connect);
    const [second] = await connectMany(3);
    await waitForQueue(network.listener, 3);
    assertEquals(await ask(first, "one"), "one");
    await waitForQueue(network.listener, 2);
    assertEquals(await ask(second, "two"), GREETING + "two");
  },
);
