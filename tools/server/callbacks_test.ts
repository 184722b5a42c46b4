/** What callbacks are told, and what they may do. */

import { assertEquals } from "@std/assert";
import { serve } from "../../server.ts";
import { GREETING } from "../testing/bytes.ts";
import { answers, askEach, send } from "../testing/clients.ts";
import { MemoryListener } from "../testing/memory_network.ts";
import { inEachMode, inMemory } from "../testing/spec.ts";
import { turns } from "../testing/timing.ts";

function fault(): never {
  throw new Error("a fault");
}

/** Collects what `console.error` is given, until it is disposed of. */
function capturedErrors(): unknown[] & Disposable {
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (what: unknown) => void printed.push(what);
  const dispose = () => void (console.error = error);
  return Object.assign(printed, { [Symbol.dispose]: dispose });
}

inEachMode("a callback may abort", { timeout: 50 }, async (service) => {
  const { server, connect, outcomes, abort, clock } = service;
  service.onExchange = abort;
  for (let i = 0; i < 4; i++) {
    await connect();
    await turns();
    clock.advance(10); // so that only the first times out
  }
  await clock.run(server.finished);
  const rest = Array(3).fill("shutdown");
  assertEquals(await outcomes(4), ["timeout", ...rest]);
});

inEachMode("a callback may shut down", {}, async (service) => {
  const { server, exchange, outcomes } = service;
  service.onExchange = () => server.shutdown();
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  await server.finished;
  assertEquals(await outcomes(1), ["echoed"]);
});

inEachMode(
  "callbacks and console.error that throw are isolated",
  {},
  async (service) => {
    const { server, connectMany, exchange } = service;
    service.onExchange = fault;
    using _ = capturedErrors();
    console.error = fault;
    assertEquals(await exchange("first"), GREETING + "first");
    const clients = await connectMany(2);
    await turns();
    const asked = askEach(clients);
    await server.shutdown();
    assertEquals(await asked, answers(2));
  },
);

inMemory("what callbacks throw is printed", {}, async (service) => {
  const { network, exchange, clock } = service;
  using printed = capturedErrors();
  const thrown = new Error("in a callback");
  service.onExchange = () => {
    throw thrown;
  };
  service.onAcceptError = () => ({
    then: (_: unknown, reject: (error: Error) => void) => reject(thrown),
  });
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  network.listener.fail(new Error("odd"));
  assertEquals(await clock.run(exchange("hoge")), GREETING + "hoge");
  service.onExchange = () => Promise.reject(thrown);
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  await turns();
  assertEquals([...printed], [thrown, thrown, thrown, thrown]);
});

Deno.test("accept errors are printed unless there is a callback", async () => {
  using printed = capturedErrors();
  const listener = new MemoryListener();
  await using _ = serve(listener, { grace: 0 });
  const failure = new Error("odd");
  listener.fail(failure);
  await turns();
  assertEquals([...printed], [failure]);
});

inMemory(
  "onExchange sees the connections that are left",
  {},
  async (service) => {
    const { server, connect, exchange, exchanges } = service;
    const seen: number[] = [];
    service.onExchange = () => seen.push(server.connections);
    await exchange("hoge");
    const lingers = await connect();
    await send(lingers, "x".repeat(2000));
    await exchanges.waitFor(2);
    await exchange("hoge");
    assertEquals(seen, [0, 1, 1]);
  },
);

inEachMode("what rejects later is isolated", {}, async (service) => {
  const { network: { listener }, exchange, server } = service;
  using errors = capturedErrors();
  const reject = () => Promise.reject(new Error("odd"));
  const { close } = listener;
  listener.close = () => {
    close.call(listener);
    return reject() as unknown as void;
  };
  listener.onAccept = (conn) => {
    const { close } = conn;
    conn.close = () => {
      close.call(conn);
      return reject() as unknown as void;
    };
  };
  const evil = Object.assign(reject(), { catch: fault });
  service.onExchange = () => evil;
  assertEquals(await exchange("hoge"), `${GREETING}hoge`);
  await server.shutdown();
  await turns();
  assertEquals(errors.length, 1);
});
