/** What tells the modes apart. */

import { assert, assertEquals } from "@std/assert";
import type { Mode } from "../../server.ts";
import { GREETING } from "../testing/bytes.ts";
import { ask, send } from "../testing/clients.ts";
import { start } from "../testing/service.ts";
import { greeted, specOver } from "../testing/spec.ts";
import { memory, memoryNetwork } from "../testing/transports.ts";
import { turns } from "../testing/timing.ts";
import { waitForQueue } from "./faults.ts";

/**
 * Ten clients connect, and ten that have been greeted speak meanwhile. Returns
 * what the server begins to write, and after how many microtasks.
 */
async function reactions(mode?: Mode): Promise<[string, number][]> {
  const network = memoryNetwork();
  const writes: [string, number][] = [];
  let microtasks = 0;
  network.listener.onAccept = (conn) => {
    const write = conn.write.bind(conn);
    conn.write = (p) => {
      writes.push([p[0] === 33 ? "greeting" : "echo", microtasks]);
      return write(p);
    };
  };
  await using service = start(network, { mode, greeting: "!" });
  const clients = await service.connectMany(10);
  await turns();
  writes.length = 0;
  service.connectMany(10);
  while (microtasks++ < 10) await undefined; // the first is accepted
  for (const client of clients) send(client, "hoge");
  while (microtasks++ < 1000) await undefined;
  assertEquals(writes.length, 20);
  return writes;
}

for (const mode of ["concurrent", undefined] as const) {
  Deno.test(`mode: ${mode}: whoever speaks is answered at once`, async () => {
    const writes = await reactions(mode);
    const echoes = writes.filter(([what]) => what === "echo");
    // Each has its own task.
    assertEquals(new Set(echoes.map(([, time]) => time)).size, 1);
  });
}

Deno.test("events: accepts and reads wait in one queue, in order", async () => {
  const writes = await reactions("events");
  // One loop handles them, one by one.
  assertEquals(new Set(writes.map(([, time]) => time)).size, 20);
  // Whoever is accepted waits behind those who have spoken before.
  const order = writes.map(([what]) => what);
  assert(order.indexOf("greeting") < order.lastIndexOf("echo"), `${order}`);
});

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
