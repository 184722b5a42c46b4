/** One exchange: its outcomes, its buffers, and what tells the modes apart. */

import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import type { Mode, Outcome } from "../../server.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import { greetMany, readText, send } from "../testing/clients.ts";
import type { MemoryConn } from "../testing/memory_network.ts";
import { withCommand } from "../testing/needs.ts";
import { ServerProcess } from "../testing/command.ts";
import { type Service, start } from "../testing/running_server.ts";
import { greeted, inEachMode, inMemory, specOver } from "../testing/spec.ts";
import { turns } from "../testing/timing.ts";
import { memory, memoryNetwork } from "../testing/transports.ts";
import { inSmallBuffers } from "./faults.ts";

inEachMode(
  "each failure has its outcome, and only an error has a reason",
  {},
  async ({ network: { listener }, connect, exchanges }) => {
    const rejects = (error?: unknown) => () => Promise.reject(error);
    const failsToEcho = (error?: Error) => (p: Uint8Array) =>
      p.length === 4 ? Promise.reject(error) : Promise.resolve(p.length);
    const odd = new Error("odd");
    const cut = new Deno.errors.UnexpectedEof();
    const faults: [Outcome, fault: Partial<MemoryConn>, reason?: unknown][] = [
      ["reset", { write: rejects(new Deno.errors.BrokenPipe()) }],
      ["reset", { write: rejects(new Deno.errors.NotConnected()) }],
      ["reset", { read: rejects(new Deno.errors.ConnectionReset()) }],
      ["reset", { read: rejects(new Deno.errors.ConnectionAborted()) }],
      ["error", { read: rejects(odd) }, odd],
      ["error", { read: rejects("text") }, "text"],
      ["error", { read: rejects(undefined) }],
      ["error", { write: rejects(undefined) }],
      ["error", { write: failsToEcho(undefined) }],
      ["error", { write: failsToEcho(cut) }, cut],
      ["reset", { write: failsToEcho(new Deno.errors.BrokenPipe()) }],
      ["eof", { read: rejects(cut) }],
      ["eof", { read: () => Promise.resolve(null) }],
      ["echoed", {}],
    ];
    for (const [, fault] of faults) {
      listener.onAccept = (conn) => Object.assign(conn, fault);
      const client = await connect();
      await send(client, "hoge");
      await readText(client).catch(() => {});
    }
    const all = await exchanges.waitFor(faults.length);
    for (const [i, [outcome, , reason]] of faults.entries()) {
      assertEquals(all[i].outcome, outcome);
      assertEquals("error" in all[i], outcome === "error");
      assertStrictEquals(all[i].error, reason);
    }
  },
);

specOver([{
  ...memory,
  open: () => memoryNetwork({ maxRead: 3, maxWrite: 2 }),
}])(
  "short writes are continued, a short read is not",
  {},
  async ({ exchange, exchanges }) => {
    assertEquals(await exchange("hoge\r\n"), GREETING + "hog");
    assertEquals(exchanges.all[0].bytes, 3);
  },
);

inMemory(
  "what failed after a large greeting is closed at once",
  { greeting: "x".repeat(1000) },
  async ({ network: { listener }, connect, outcomes }) => {
    let reads = 0;
    listener.onAccept = (conn) => {
      const read = conn.read.bind(conn);
      conn.read = (p) => reads++ ? read(p) : Promise.reject(new Error("odd"));
    };
    const client = await connect();
    assertEquals(await outcomes(1), ["error"]);
    await turns();
    assertEquals(client.peer.closed, true);
  },
);

// ------------------------------------------------------------------- the buffers

/** Every buffer that a server reads a message into. */
function messageBuffers(
  { network }: Service<ReturnType<typeof memoryNetwork>>,
) {
  const buffers = new Set<Uint8Array>();
  network.listener.onAccept = (conn) => {
    const read = conn.read.bind(conn);
    let first = true;
    conn.read = (into) => {
      if (first) buffers.add(into);
      first = false;
      return read(into);
    };
  };
  return buffers;
}

inMemory(
  "a read buffer is used again, however its exchange ended",
  { timeout: 100 },
  async (service) => {
    const { connect, exchange, outcomes, clock } = service;
    const buffers = messageBuffers(service);
    await exchange("hoge");
    (await greeted(connect)).close();
    await outcomes(2);
    (await greeted(connect)).reset();
    await greeted(connect);
    await clock.run(outcomes(4));
    await exchange("fuga");
    const expected = ["echoed", "eof", "reset", "timeout", "echoed"];
    assertEquals(await outcomes(5), expected);
    assertEquals(buffers.size, 1);
  },
);

const KIB = 1024;
for (const [size, kept] of [[KIB, 300], [64 * KIB, 256], [65 * KIB, 0]]) {
  inMemory(
    `of 300 buffers of ${size} bytes, ${kept} are used again`,
    { maxBytes: size },
    async (service) => {
      const { connectMany, outcomes } = service;
      const buffers = messageBuffers(service);
      const crowd = async (total: number) => {
        const clients = await connectMany(300);
        await turns(); // all of them are being read
        for (const client of clients) client.close();
        await outcomes(total);
        return buffers.size;
      };
      assertEquals(await crowd(300), 300);
      assertEquals(await crowd(600), 600 - kept);
    },
  );
}

inSmallBuffers(
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

const MIB = 1 << 20;

for (const [maxBytes, clients] of [[16 * MIB, 100], [MIB, 1000]]) {
  withCommand(
    `${clients} clients that may send ${maxBytes / MIB} MiB take under 100 MB`,
    async () => {
      const args = ["-p0", `--max-bytes=${maxBytes}`];
      await using command = new ServerProcess(args);
      const port = await command.ready();
      for (let wave = 0; wave < 3; wave++) {
        using all = await greetMany(port, clients);
        await Promise.all(all.map((conn) => conn.write(bytesOf("hello"))));
        await Promise.all(all.map(readText));
      }
      const kB = await command.residentMemory();
      assert(kB > 0 && kB < 100_000, `${kB} kB`);
    },
    ["ps"],
  );
}

// ------------------------------------------------------------------ the modes

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

Deno.test("by default, whoever speaks is answered at once", async () => {
  const writes = await reactions();
  const echoes = writes.filter(([what]) => what === "echo");
  // Each has its own task.
  assertEquals(new Set(echoes.map(([, time]) => time)).size, 1);
});

Deno.test("events: accepts and reads wait in one queue, in order", async () => {
  const writes = await reactions("events");
  // One loop handles them, one by one.
  assertEquals(new Set(writes.map(([, time]) => time)).size, 20);
  // Whoever is accepted waits behind those who have spoken before.
  const order = writes.map(([what]) => what);
  assert(order.indexOf("greeting") < order.lastIndexOf("echo"), `${order}`);
});
