/** How a connection lingers, so that no reset overtakes what was sent. */

import { assertEquals } from "@std/assert";
import { inEachMode, inMemory } from "../testing/spec.ts";
import { digits, GREETING } from "../testing/bytes.ts";
import { ask, send } from "../testing/clients.ts";
import { turns } from "../testing/timing.ts";

inEachMode("lingering does not block others", {}, async (service) => {
  const { server, connect, exchange, exchanges, outcomes, clock } = service;
  const lingers = await connect();
  const message = "x".repeat(1024);
  assertEquals(await ask(lingers, message), GREETING + message);
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  assertEquals(await outcomes(2), ["echoed", "echoed"]);
  assertEquals(exchanges.all[0].ms, 0);
  await turns();
  assertEquals(lingers.peer.closed, false);
  await clock.run(server.shutdown());
  assertEquals(clock.now, 1000);
});

inEachMode("lingering ends when the client closes", {}, async (service) => {
  const { server, connect, clock } = service;
  const client = await connect();
  await ask(client, "x".repeat(1024));
  await client.closeWrite();
  await server.shutdown();
  assertEquals(clock.now, 0);
});

inEachMode("a half-close that fails is a close", {}, async (service) => {
  const { network: { listener }, connect, exchanges, clock } = service;
  const gone = new Deno.errors.NotConnected(); // after a reset
  listener.onAccept = (conn) => conn.closeWrite = () => Promise.reject(gone);
  const client = await connect();
  await ask(client, "x".repeat(1024));
  await turns();
  assertEquals([client.peer.closed, clock.now], [true, 0]);
  assertEquals(exchanges.all[0].outcome, "echoed");
});

for (const [bytes, closed] of [[507, true], [508, false]] as const) {
  inMemory(
    `after a greeting of ${bytes} bytes, a short echo lingers: ${!closed}`,
    { greeting: digits(bytes) },
    async ({ connect, outcomes }) => {
      const client = await connect();
      await send(client, "hoge");
      assertEquals(await outcomes(1), ["echoed"]);
      await turns();
      assertEquals(client.peer.closed, closed);
    },
  );
}

inMemory(
  "lingering ends after 1 MiB, and not a byte before",
  { maxBytes: 100 },
  async ({ connect }) => {
    const client = await connect();
    await send(client, new Uint8Array(100 + (1 << 20) - 1));
    await turns();
    assertEquals(client.peer.closed, false);
    await send(client, "x");
    await turns();
    assertEquals(client.peer.closed, true);
  },
);

inEachMode(
  "a half-close that is stuck makes it no longer",
  {},
  async ({ network: { listener }, connect, clock }) => {
    listener.onAccept = (conn) => {
      const { promise, reject } = Promise.withResolvers<void>();
      const close = conn.close.bind(conn);
      conn.closeWrite = () => promise;
      conn.close = () => {
        close();
        reject(new Deno.errors.Interrupted());
      };
    };
    const client = await connect();
    await send(client, digits(1024));
    await turns();
    clock.advance(1000);
    await turns();
    assertEquals(client.peer.closed, true);
  },
);
