import {
  assert,
  assertEquals,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { type Mode, serve, type ServeOptions } from "./server.ts";
import { MemoryListener } from "./tools/testing/memory_network.ts";
import { start } from "./tools/testing/service.ts";
import { greeted, specOver } from "./tools/testing/spec.ts";
import { digits, GREETING, numbers } from "./tools/testing/bytes.ts";
import {
  ask,
  type Conn,
  connectMany,
  greetMany,
  readAll,
  readExactly,
  readText,
  send,
} from "./tools/testing/clients.ts";
import { needs, queueOf, withNet } from "./tools/testing/needs.ts";
import { Inbox, turns } from "./tools/testing/timing.ts";
import {
  memory,
  memoryNetwork,
  type Network,
  RESETTABLE,
  tcp,
  tls,
  TRANSPORTS,
  unix,
} from "./tools/testing/transports.ts";

const UNBLOCKED: Mode[] = ["concurrent", "events"];

// ------------------------------------------- over every transport, in every mode

const spec = specOver(TRANSPORTS);
const unblocked = specOver(TRANSPORTS, UNBLOCKED);
const serial = specOver(TRANSPORTS, ["serial"]);
const resets = specOver(RESETTABLE);
// Not TLS: handshakes overtake each other, and each takes 50 ms.
const ordered = specOver<Network>([memory, tcp, unix], UNBLOCKED);

spec("greets, echoes one read and closes", {}, async (service) => {
  const { connect, exchanges, clock } = service;
  const client = await greeted(connect);
  clock.advance(5);
  assertEquals(await ask(client, "hoge\r\n"), "hoge\r\n");
  await exchanges.waitFor(1);
  const remote = Object.assign({ transport: "tcp" }, client.localAddr);
  assertEquals(exchanges.all, [{ remote, outcome: "echoed", bytes: 6, ms: 5 }]);
});

spec(
  "a client that only half-closes gets the greeting",
  {},
  async (service) => {
    const { connect, exchanges, outcomes } = service;
    const client = await connect();
    await client.closeWrite();
    assertEquals(await readText(client), GREETING);
    assertEquals(await outcomes(1), ["eof"]);
    assertEquals(exchanges.all[0].bytes, 0);
  },
);

spec(
  "a half-closed client gets its echo",
  {},
  async ({ connect, outcomes }) => {
    const client = await connect();
    await send(client, "hoge");
    await client.closeWrite();
    assertEquals(await readText(client), GREETING + "hoge");
    assertEquals(await outcomes(1), ["echoed"]);
  },
);

spec("all byte values come back", { greeting: "" }, async ({ connect }) => {
  const client = await connect();
  const message = new Uint8Array(numbers(256));
  await send(client, message);
  assertEquals(await readAll(client), message);
});

spec("echoes at most maxBytes", { maxBytes: 128 }, async (service) => {
  const { exchange, exchanges, outcomes } = service;
  assertEquals(await exchange("x".repeat(129)), GREETING + "x".repeat(128));
  assertEquals(await outcomes(1), ["echoed"]);
  assertEquals(exchanges.all[0].bytes, 128);
});

spec("more than maxBytes: the echo and a clean EOF", {}, async (service) => {
  const { exchange, exchanges, outcomes } = service;
  assertEquals(
    await exchange(digits(5000)),
    GREETING + digits(5000).slice(0, 1024),
  );
  assertEquals(await outcomes(1), ["echoed"]);
  assertEquals(exchanges.all[0].bytes, 1024);
});

spec("more than maxBytes, read late: a clean EOF", {}, async (service) => {
  const { server, connect, exchanges, clock } = service;
  const client = await connect();
  await send(client, "x".repeat(5000));
  await exchanges.waitFor(1);
  clock.advance(1000); // the server stops draining
  await server.shutdown();
  assertEquals(await readText(client), GREETING + "x".repeat(1024));
});

spec("a second message, read late: a clean EOF", {}, async (service) => {
  const { connect, exchanges } = service;
  const client = await connect();
  await send(client, "first");
  await exchanges.waitFor(1);
  await send(client, "second").catch(() => {}); // Unix sockets refuse it
  assertEquals(await readText(client), GREETING + "first");
});

spec(
  "short writes are continued",
  ({ lots }) => ({ greeting: digits(lots) }),
  async ({ network, connect }) => {
    const client = await connect();
    const greeting = await readExactly(client, network.lots);
    assert(greeting === digits(network.lots));
    assertEquals(await ask(client, "hoge"), "hoge");
  },
);

spec("a silent client times out with a clean EOF", {}, async (service) => {
  const { connect, exchanges, outcomes, clock } = service;
  const client = await greeted(connect);
  clock.advance(59_999);
  await turns();
  assertEquals(exchanges.all, []);
  clock.advance(1);
  assertEquals(await readText(client), "");
  assertEquals(await outcomes(1), ["timeout"]);
  assertEquals(exchanges.all[0].ms, 60_000);
});

spec(
  "a client that never reads times out with a clean EOF",
  ({ lots }) => ({ greeting: digits(lots) }),
  async ({ network, connect, exchanges, outcomes, clock }) => {
    const client = await connect();
    await send(client, "unread, and no reason for a reset");
    await readExactly(client, 1);
    await clock.run(exchanges.waitFor(1));
    assertEquals(await outcomes(1), ["timeout"]);
    const { length } = await readAll(client); // rejects if there was a reset
    assert(length < network.lots - 1);
  },
);

spec("an abort closes idle clients at once", {}, async (service) => {
  const { server, connect, abort, outcomes, clock } = service;
  const client = await greeted(connect);
  abort();
  assertEquals(await readText(client), "");
  await server.finished;
  assertEquals(await outcomes(1), ["shutdown"]);
  assertEquals(clock.now, 0);
});

spec("shutdown lets exchanges in progress finish", {}, async (service) => {
  const { server, connect, exchanges, outcomes } = service;
  const client = await greeted(connect);
  const stopped = server.shutdown();
  assertEquals(await ask(client, "last words"), "last words");
  await stopped;
  assertEquals(await outcomes(1), ["echoed"]);
  assertEquals(exchanges.all.length, 1);
});

spec("the grace ends on time, and cleanly", { grace: 100 }, async (service) => {
  const { server, connect, exchanges, outcomes, clock } = service;
  const client = await greeted(connect);
  const stopped = server.shutdown();
  clock.advance(99);
  await turns();
  assertEquals(exchanges.all, []);
  clock.advance(1);
  assertEquals(await readText(client), "");
  await stopped;
  assertEquals(await outcomes(1), ["shutdown"]);
});

spec("disposal closes a leaked client", { grace: 0 }, async (service) => {
  const { server, connect, outcomes, clock } = service;
  const leaked = await greeted(connect);
  await clock.run(Promise.resolve(server[Symbol.asyncDispose]()));
  assertEquals(await readText(leaked), "");
  assertEquals(await outcomes(1), ["shutdown"]);
});

spec("shutdown serves the queue", { maxConnections: 1 }, async (service) => {
  const { server, connect, connectMany, exchanges } = service;
  const first = await greeted(connect);
  const waiting = await connectMany(100);
  const answers = waiting.map((client, i) => ask(client, `${i}`));
  const stopped = server.shutdown();
  assertEquals(await ask(first, "first"), "first");
  const expected = waiting.map((_, i) => `${GREETING}${i}`);
  assertEquals(await Promise.all(answers), expected);
  await stopped;
  assertEquals(exchanges.all.length, 101);
});

spec("finished settles once, and shutdown returns it", {}, async (service) => {
  const { server, abort } = service;
  let settled = 0;
  server.finished.then(() => settled++);
  assertStrictEquals(server.shutdown(), server.finished);
  assertStrictEquals(server.shutdown(), server.finished);
  abort();
  assertStrictEquals(server.shutdown(), server.finished);
  await server.finished;
  assertEquals(settled, 1);
});

unblocked("a silent client does not block others", {}, async (service) => {
  const { connect, exchange } = service;
  await greeted(connect);
  const answers = numbers(10).map((i) => exchange(`${i}`));
  const expected = numbers(10).map((i) => `${GREETING}${i}`);
  assertEquals(await Promise.all(answers), expected);
});

ordered(
  "maxConnections is reached, never exceeded, and in order",
  { maxConnections: 3, timeout: 350 },
  async ({ connect, exchanges, outcomes, clock }) => {
    const started = new Inbox<number>();
    const clients: Conn[] = [];
    for (const i of numbers(20)) {
      const client = await connect(); // so that they are queued in this order
      clients.push(client);
      readExactly(client, GREETING.length)
        .then(() => started.push(i), () => started.push(-1));
    }
    // In turn, each way to end gives its place to the next client.
    const ways: ((client: Conn) => unknown)[] = [
      (client) => send(client, "hoge"),
      (client) => client.closeWrite(),
      (client) => client.close(),
      () => clock.advance(50), // exactly the timeout of this one
      (client) => send(client, "x".repeat(5000)).then(() => readAll(client)),
    ];
    for (const [i, client] of clients.entries()) {
      await started.waitFor(Math.min(i + 3, 20));
      await turns(2);
      assertEquals(started.all, numbers(Math.min(i + 3, 20)));
      await ways[i % 5](client);
      await exchanges.waitFor(i + 1);
      if (i % 5 === 4) client.close(); // it would linger
      await started.waitFor(Math.min(i + 4, 20)); // at this time
      clock.advance(i % 5 === 3 ? 50 : 100);
    }
    const counts = Object.groupBy(await outcomes(20), (outcome) => outcome);
    assertEquals(counts.timeout?.length, 4);
    assertEquals(counts.echoed?.length, 8);
  },
);

serial("the second client waits for the first", {}, async (service) => {
  const { connect, outcomes } = service;
  const first = await greeted(connect);
  const second = await connect();
  let secondGreeted = false;
  const greeting = readExactly(second, GREETING.length)
    .finally(() => secondGreeted = true);
  await turns();
  await send(first, "one");
  assertEquals(secondGreeted, false);
  assertEquals(await readText(first), "one");
  assertEquals(await greeting, GREETING);
  assertEquals(await ask(second, "two"), "two");
  assertEquals(await outcomes(2), ["echoed", "echoed"]);
});

resets("a reset is isolated", {}, async (service) => {
  const { network, exchange, outcomes } = service;
  const client = await network.connectResettable();
  await client.received();
  await client.reset();
  assertEquals(await outcomes(1), ["reset"]);
  const queued = await network.connectResettable();
  await queued.reset();
  assertEquals(await exchange("hoge"), GREETING + "hoge");
});

// ------------------------------------------------------ one transport, real time

for (const { name, permissions, others, open } of TRANSPORTS) {
  needs(permissions, others, `${name}: times out in real time`, async () => {
    await using service = start(await open(), { timeout: 50 });
    const client = await service.connect();
    const reading = readAll(client);
    const [{ outcome, ms }] = await service.exchanges.waitFor(1);
    assertEquals(outcome, "timeout");
    assert(ms >= 50, `after ${ms} ms`);
    await reading.catch(() => {}); // TLS may not have shaken hands in time
  });
}

const overTcp = specOver([tcp], ["concurrent"]);
const overTls = specOver([tls], ["concurrent"]);

overTcp("thousands of clients time out together", {}, async (service) => {
  const { network, exchanges, outcomes, clock } = service;
  using clients = await greetMany(network.listener.addr.port, 2000);
  clock.advance(60_000);
  const rests = await Promise.all(clients.map(readText));
  assert(rests.every((text) => text === ""));
  assert((await outcomes(2000)).every((outcome) => outcome === "timeout"));
  assertEquals(exchanges.all.length, 2000);
});

specOver([{ ...tcp, others: [queueOf(500)] }], UNBLOCKED)(
  "shutdown serves 500 clients of its own process",
  {},
  async ({ server, connectMany }) => {
    // Their reads and writes compete with the accepts for the runtime's turns.
    const clients = await connectMany(500);
    const answers = clients.map((client, i) => ask(client, `${i}`));
    await server.shutdown();
    const expected = clients.map((_, i) => `${GREETING}${i}`);
    assertEquals(await Promise.all(answers), expected);
  },
);

overTcp(
  "a crowd that never reads a large greeting does not block others",
  { greeting: new Uint8Array(8 << 20) },
  async ({ server, connect, connectMany, exchanges, outcomes }) => {
    const crowd = await connectMany(100);
    const client = await connect();
    await readExactly(client, 8 << 20);
    assertEquals(await ask(client, "hoge"), "hoge");
    assertEquals(await outcomes(1), ["echoed"]);
    client.close();
    crowd.forEach((conn) => conn.close());
    await server.shutdown();
    assertEquals(exchanges.all.length, 101);
  },
);

overTcp("a listener closed from outside ends it", {}, async (service) => {
  service.network.listener.close();
  await service.server.finished;
});

withNet(
  "TCP: a shutdown, then closing the listener, leaves no timer",
  async () => {
    await using service = start(await tcp.open());
    const stopped = service.server.shutdown();
    service.network.listener.close();
    await stopped;
  },
);

overTls("failing and missing handshakes are isolated", {}, async (service) => {
  const { network, server, exchange, exchanges, outcomes, clock } = service;
  const silent = await connectMany(network.listener.addr.port, 100);
  const [plain] = await connectMany(network.listener.addr.port, 1);
  await send(plain, "GET / HTTP/1.0\r\n\r\n");
  assertEquals(await outcomes(1), ["error"]);
  assertEquals(await exchange("hoge"), GREETING + "hoge");
  await clock.run(exchanges.waitFor(102));
  const rest = (await outcomes(102)).slice(1).toSorted();
  assertEquals(rest, ["echoed", ...Array(100).fill("timeout")]);
  [plain, ...silent].forEach((conn) => conn.close());
  await server.shutdown();
});

// ------------------------------------------------------------------- the options

const inMemory = specOver([memory], ["concurrent"]);

Deno.test("wrong options throw and name the option", () => {
  const wrong: [unknown, typeof TypeError | typeof RangeError][] = [
    [{ greeting: 1 }, TypeError],
    [{ maxBytes: 0 }, RangeError],
    [{ maxBytes: 1.5 }, RangeError],
    [{ maxBytes: NaN }, RangeError],
    [{ maxBytes: 2 ** 30 + 1 }, RangeError],
    [{ maxBytes: "1024" }, TypeError],
    [{ timeout: -1 }, RangeError],
    [{ timeout: NaN }, RangeError],
    [{ timeout: Infinity }, RangeError],
    [{ timeout: 2 ** 31 }, RangeError],
    [{ timeout: "1" }, TypeError],
    [{ grace: -1 }, RangeError],
    [{ grace: NaN }, RangeError],
    [{ grace: Infinity }, RangeError],
    [{ grace: 2 ** 31 }, RangeError],
    [{ grace: "1" }, TypeError],
    [{ maxConnections: 0 }, RangeError],
    [{ maxConnections: 1.5 }, RangeError],
    [{ maxConnections: null }, TypeError],
    [{ mode: "fast" }, TypeError],
    [{ signal: {} }, TypeError],
    [{ onExchange: "log" }, TypeError],
    [{ onAcceptError: true }, TypeError],
  ];
  for (const [options, type] of wrong) {
    const [name] = Object.keys(options as Record<string, unknown>);
    const listener = new MemoryListener();
    assertThrows(() => serve(listener, options as ServeOptions), type, name);
  }
});

Deno.test("the largest and the smallest options are accepted", async () => {
  const accepted: ServeOptions[] = [
    { maxBytes: 1, timeout: 0, grace: 0, maxConnections: 1 },
    { maxBytes: 2 ** 30, timeout: 2 ** 31 - 1, grace: 2 ** 31 - 1 },
  ];
  for (const options of accepted) {
    await serve(new MemoryListener(), options).shutdown();
  }
});

Deno.test("the server's address has its listener's type", async () => {
  await using server = serve(new MemoryListener());
  const port: number = server.addr.port; // no cast
  assertEquals(port, 7);
  // @ts-expect-error: the address of a Unix socket has no port
  ((listener: Deno.UnixListener) => serve(listener).addr.port);
  ((listener: Deno.UnixListener): string | null => serve(listener).addr.path);
});

Deno.test("a read buffer is used again", async () => {
  const network = memoryNetwork();
  const buffers = new Set<Uint8Array>();
  network.listener.onAccept = (conn) => {
    const read = conn.read.bind(conn);
    conn.read = (into) => read(into).finally(() => buffers.add(into));
  };
  await using service = start(network);
  await service.exchange("hoge");
  await service.exchange("fuga");
  assertEquals(buffers.size, 1);
});

Deno.test("a greeting in a string is sent as UTF-8", async () => {
  const greeting = "é€😀";
  await using service = start(memoryNetwork(), { greeting });
  assertEquals(await service.exchange("hoge"), `${greeting}hoge`);
});

Deno.test("a greeting of bytes is sent as it was at the start", async () => {
  const greeting = new Uint8Array([0, 255, 13]);
  await using service = start(memoryNetwork(), { greeting });
  greeting.fill(1);
  const client = await service.connect();
  await client.closeWrite();
  assertEquals(await readAll(client), new Uint8Array([0, 255, 13]));
});

for (const [timeout, expected] of [[0, [true]], [60_000, []]] as const) {
  inMemory(
    `timeout: ${timeout} and TCP keep-alive`,
    { timeout },
    async (service) => {
      const { network: { listener }, exchange } = service;
      const calls: boolean[] = [];
      const setKeepAlive = (on: boolean) => {
        calls.push(on);
        throw new Deno.errors.BadResource("gone already");
      };
      listener.onAccept = (conn) => Object.assign(conn, { setKeepAlive });
      assertEquals(await exchange("hoge"), GREETING + "hoge");
      assertEquals(calls, expected);
    },
  );
}
