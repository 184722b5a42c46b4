/**
 * What a client, and a program that calls `serve`, can see: over every
 * transport, in every mode, in the order of the README. Faults, limits and
 * times to the millisecond are in tools/server.
 */

import {
  assert,
  assertEquals,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { serve, type ServeOptions } from "./server.ts";
import { bytesOf, digits, GREETING, numbers } from "./tools/testing/bytes.ts";
import {
  answers,
  ask,
  askEach,
  connectMany,
  greetMany,
  readAll,
  readExactly,
  readText,
  send,
} from "./tools/testing/clients.ts";
import { needs, queueOf } from "./tools/testing/needs.ts";
import { MemoryListener } from "./tools/testing/memory_network.ts";
import { start } from "./tools/testing/running_server.ts";
import {
  greeted,
  inEachMode,
  inMemory,
  specOver,
  UNBLOCKED,
} from "./tools/testing/spec.ts";
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

const spec = specOver(TRANSPORTS);
const unblocked = specOver(TRANSPORTS, UNBLOCKED);
const serial = specOver(TRANSPORTS, ["serial"]);
const resettable = specOver(RESETTABLE);
// Not TLS: handshakes overtake each other, and each takes 50 ms.
const ordered = specOver<Network>([memory, tcp, unix], UNBLOCKED);
const overTcp = specOver([tcp], ["concurrent"]);
const overTls = specOver([tls], ["concurrent"]);

// ------------------------------------------------------------------ the exchange

for (const define of [spec, specOver([tcp], ["events"])]) {
  define("greets, echoes one read and closes", {}, async (service) => {
    const { server, connect, exchanges, clock } = service;
    clock.advance(1000);
    const client = await greeted(connect);
    assertEquals(server.connections, 1);
    clock.advance(5);
    assertEquals(await ask(client, "hoge\r\n"), "hoge\r\n");
    const [exchange] = await exchanges.waitFor(1);
    assertEquals(server.connections, 0);
    const remote = Object.assign({ transport: "tcp" }, client.localAddr);
    assertEquals(exchange, { remote, outcome: "echoed", bytes: 6, ms: 5 });
  });
}

spec("a client may speak before it is greeted", {}, async (service) => {
  const { connect, outcomes } = service;
  const client = await connect();
  await send(client, "hoge");
  await client.closeWrite();
  assertEquals(await readText(client), `${GREETING}hoge`);
  assertEquals(await outcomes(1), ["echoed"]);
});

spec("a client that only half-closes is greeted", {}, async (service) => {
  const { connect, exchanges, outcomes } = service;
  const client = await connect();
  await client.closeWrite();
  assertEquals(await readText(client), GREETING);
  assertEquals(await outcomes(1), ["eof"]);
  assertEquals(exchanges.all[0].bytes, 0);
});

spec("all byte values come back", { greeting: "" }, async ({ connect }) => {
  const client = await connect();
  const message = new Uint8Array(numbers(256));
  await send(client, message);
  assertEquals(await readAll(client), message);
});

resettable("a reset is isolated", {}, async (service) => {
  const { network, exchange, outcomes } = service;
  const client = await network.connectResettable();
  await client.received();
  await client.reset();
  assertEquals(await outcomes(1), ["reset"]);
  const queued = await network.connectResettable();
  await queued.reset();
  assertEquals(await exchange("hoge"), `${GREETING}hoge`);
});

// ------------------------------------------------------------------- the options

spec(
  "a greeting of any length is sent whole",
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
  async ({ network, connect, exchanges, clock }) => {
    const client = await connect();
    await send(client, "unread, and no reason for a reset");
    await readExactly(client, 1);
    const [{ outcome, ms }] = await clock.run(exchanges.waitFor(1));
    assertEquals(outcome, "timeout");
    assertEquals(ms, 60_050); // time to discard what the client has sent
    const { length } = await readAll(client); // rejects if there was a reset
    assert(length < network.lots - 1);
  },
);

// Only in memory has everything arrived that is sent: a kernel may be busy.
inEachMode(
  "data that came in time is echoed",
  { timeout: 50 },
  async (service) => {
    const { connect, outcomes, clock } = service;
    const client = await greeted(connect);
    await send(client, "hoge");
    clock.advance(50); // before the server has seen it
    assertEquals(await readText(client), "hoge");
    assertEquals(await outcomes(1), ["echoed"]);
  },
);

for (const { name, permissions, others, open } of TRANSPORTS) {
  needs(permissions, others, `${name}: times out in real time`, async () => {
    await using service = start(await open(), { timeout: 20 });
    const client = await service.connect();
    const reading = readAll(client);
    const [{ outcome, ms }] = await service.exchanges.waitFor(1);
    assertEquals(outcome, "timeout");
    assert(ms >= 20, `after ${ms} ms`);
    await reading.catch(() => {}); // TLS may not have shaken hands in time
  });
}

overTcp("thousands of clients time out together", {}, async (service) => {
  const { network, outcomes, clock } = service;
  using clients = await greetMany(network.listener.addr.port, 2000);
  clock.advance(60_000);
  assertEquals(
    new Set(await Promise.all(clients.map(readText))),
    new Set([""]),
  );
  assertEquals(new Set(await outcomes(2000)), new Set(["timeout"]));
});

spec("timeout: 0 never ends an exchange", { timeout: 0 }, async (service) => {
  const { connect, exchanges, clock } = service;
  const client = await greeted(connect);
  clock.advance(2 ** 31);
  await turns();
  assertEquals(exchanges.all, []);
  assertEquals(await ask(client, "hoge"), "hoge");
});

ordered(
  "maxConnections is reached, never exceeded, and in order",
  { maxConnections: 3 },
  async ({ server, connect, exchanges }) => {
    const greetings = new Inbox<number>();
    const clients = [];
    for (const i of numbers(12)) {
      const client = await connect(); // so that they are queued in this order
      readExactly(client, GREETING.length).then(() => greetings.push(i));
      clients.push(client);
    }
    for (const [i, client] of clients.entries()) {
      const served = Math.min(i + 3, 12);
      await greetings.waitFor(served);
      await turns(2);
      assertEquals(greetings.all, numbers(served));
      assertEquals(server.connections, served - i);
      await (i % 2 === 0 ? send(client, "hoge") : client.closeWrite());
      await exchanges.waitFor(i + 1);
    }
  },
);

spec(
  "an abort closes idle clients at once, and greets nobody who waits",
  { maxConnections: 1 },
  async ({ server, connect, connectMany, abort, exchanges, clock }) => {
    const first = await greeted(connect);
    const waiting = await connectMany(10);
    const texts = Promise.all(
      waiting.map((client) => readText(client).catch(() => "")), // reset
    );
    abort();
    assertEquals(await readText(first), "");
    await server.finished;
    assertEquals(await texts, waiting.map(() => ""));
    assertEquals(exchanges.all[0].outcome, "shutdown");
    assertEquals(clock.now, 0);
  },
);

const BYTES = new Uint8Array([0, 255, 13]);
for (
  const [what, greeting, sent] of [
    ["text is sent as UTF-8", "é€😀", "é€😀"],
    ["bytes is sent as it was at the start", BYTES, BYTES.slice()],
    ["a Node.js Buffer is copied too", Buffer.from("hello"), "hello"],
    ["nothing is not sent", "", ""],
  ] as const
) {
  Deno.test(`a greeting of ${what}`, async () => {
    await using service = start(memoryNetwork(), { greeting });
    if (typeof greeting !== "string") greeting.fill(88);
    const client = await service.connect();
    await client.closeWrite();
    const expected = typeof sent === "string" ? bytesOf(sent) : sent;
    assertEquals(await readAll(client), expected);
  });
}

for (const timeout of [0, 60_000]) {
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
      assertEquals(calls, timeout === 0 ? [true] : []);
    },
  );
}

Deno.test("wrong options throw and name the option", () => {
  const wrong: [unknown, typeof TypeError | typeof RangeError][] = [
    [null, TypeError],
    [1, TypeError],
    ["", TypeError],
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
    const [name = "options must be an object"] = Object.keys(Object(options));
    const listener = new MemoryListener();
    assertThrows(() => serve(listener, options as ServeOptions), type, name);
    assertEquals(listener.closed, true); // nobody else could close it
  }
});

Deno.test("what is not a listener is refused", () => {
  for (const options of [{ port: 0 }, undefined, null, "30000"]) {
    const listener = options as unknown as MemoryListener;
    assertThrows(() => serve(listener), TypeError, "listener must be");
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

// ------------------------------------------------------------- in your own tests

spec("shutdown lets exchanges in progress finish", {}, async (service) => {
  const { server, connect, outcomes } = service;
  const client = await greeted(connect);
  const stopped = server.shutdown();
  assertEquals(await ask(client, "last words"), "last words");
  await stopped;
  assertEquals(await outcomes(1), ["echoed"]);
  assertEquals(server.connections, 0);
});

spec("the grace ends on time, and cleanly", {}, async (service) => {
  const { server, connect, exchanges, outcomes, clock } = service;
  const client = await greeted(connect);
  const stopped = server.shutdown();
  clock.advance(9000);
  server.shutdown(); // the grace does not begin again
  clock.advance(999);
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

inEachMode(
  "data that has arrived needs no grace",
  { grace: 0 },
  async (service) => {
    const { server, connect, clock } = service;
    const client = await greeted(connect);
    await send(client, "hoge");
    await clock.run(Promise.resolve(server[Symbol.asyncDispose]()));
    assertEquals(await readText(client), "hoge");
  },
);

spec("shutdown serves the queue", { maxConnections: 1 }, async (service) => {
  const { server, connect, connectMany, exchanges } = service;
  const first = await greeted(connect);
  const waiting = await connectMany(100);
  const asked = askEach(waiting);
  const stopped = server.shutdown();
  assertEquals(await ask(first, "first"), "first");
  assertEquals(await asked, answers(100));
  await stopped;
  assertEquals(exchanges.all.length, 101);
});

specOver([{ ...tcp, others: [queueOf(500)] }], UNBLOCKED)(
  "shutdown serves 500 clients of its own process",
  {},
  async ({ server, connectMany }) => {
    // Their reads and writes compete with the accepts for the runtime's turns.
    const clients = await connectMany(500);
    const asked = askEach(clients);
    await server.shutdown();
    assertEquals(await asked, answers(500));
  },
);

spec(
  "shutdown may be called again, and returns finished",
  {},
  async (service) => {
    const { server, abort } = service;
    assertStrictEquals(server.shutdown(), server.finished);
    assertStrictEquals(server.shutdown(), server.finished);
    abort();
    assertStrictEquals(server.shutdown(), server.finished);
    assertEquals(await server.finished, undefined);
  },
);

spec("a listener closed from outside ends the server", {}, async (service) => {
  const { network, server, connect, outcomes } = service;
  const client = await greeted(connect);
  network.listener.close();
  assertEquals(await ask(client, "hoge"), "hoge");
  await server.finished;
  await server.shutdown();
  assertEquals(await outcomes(1), ["echoed"]);
});

// ----------------------------------------------------------------- what to know

for (const [more, size] of [["more", 5000], ["far more", 500_000]] as const) {
  spec(
    `${more} than maxBytes: the echo and a clean EOF`,
    {},
    async (service) => {
      const { network, connect, exchanges } = service;
      const client = await connect();
      const reading = readText(client);
      await send(client, digits(Math.min(size, network.lots)));
      assertEquals(await reading, GREETING + digits(1024));
      const [{ outcome, bytes }] = await exchanges.waitFor(1);
      assertEquals({ outcome, bytes }, { outcome: "echoed", bytes: 1024 });
    },
  );
}

spec(
  "more than maxBytes, read late: a clean EOF",
  { maxBytes: 100 },
  async (service) => {
    const { server, connect, exchanges, clock } = service;
    const client = await connect();
    await send(client, "x".repeat(500));
    await exchanges.waitFor(1);
    clock.advance(999);
    await turns();
    assertEquals(server.connections, 1);
    clock.advance(1); // the server has waited long enough
    await server.shutdown();
    assertEquals(await readText(client), GREETING + "x".repeat(100));
  },
);

// Not over Unix sockets, which answer with a reset now and then.
specOver<Network>([memory, tcp, tls])(
  "a second message, read late: a clean EOF",
  {},
  async ({ connect, exchanges }) => {
    const client = await connect();
    await send(client, "first");
    await exchanges.waitFor(1);
    await send(client, "second");
    assertEquals(await readText(client), `${GREETING}first`);
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

overTls("failing and missing handshakes are isolated", {}, async (service) => {
  const { network, server, exchange, exchanges, outcomes, clock } = service;
  const { port } = network.listener.addr;
  using silent = await connectMany(port, 100);
  using plain = await connectMany(port, 1);
  await send(plain[0], "GET / HTTP/1.0\r\n\r\n");
  assertEquals(await outcomes(1), ["error"]);
  assertEquals(await exchange("hoge"), `${GREETING}hoge`);
  await clock.run(exchanges.waitFor(102));
  const rest = (await outcomes(102)).slice(1).toSorted();
  assertEquals(rest, ["echoed", ...silent.map(() => "timeout")]);
  [...plain, ...silent].forEach((conn) => conn.close());
  await server.shutdown();
});

// ------------------------------------------------------------------- three modes

unblocked("a silent client does not block others", {}, async (service) => {
  const { connect, connectMany } = service;
  await greeted(connect);
  assertEquals(await askEach(await connectMany(10)), answers(10));
});

serial("the second client waits for the first", {}, async (service) => {
  const { server, connect, outcomes } = service;
  const first = await greeted(connect);
  const second = await connect();
  let secondGreeted = false;
  const greeting = readExactly(second, GREETING.length)
    .finally(() => secondGreeted = true);
  await turns();
  assertEquals(server.connections, 1); // the other is in the kernel's queue
  await send(first, "one");
  assertEquals(secondGreeted, false);
  assertEquals(await readText(first), "one");
  assertEquals(await greeting, GREETING);
  assertEquals(await ask(second, "two"), "two");
  assertEquals(await outcomes(2), ["echoed", "echoed"]);
});
