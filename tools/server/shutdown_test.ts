/** What a shutdown or an abort waits for, serves and closes, and how soon. */

import { assert, assertEquals } from "@std/assert";
import { serve } from "../../server.ts";
import { digits, GREETING } from "../testing/bytes.ts";
import {
  answers,
  ask,
  askEach,
  type Conn,
  exchange,
  greetMany,
  readAll,
  readExactly,
  readText,
  send,
} from "../testing/clients.ts";
import { FakeClock } from "../testing/fake_clock.ts";
import { MemoryListener } from "../testing/memory_network.ts";
import { withCommand } from "../testing/needs.ts";
import { ServerProcess } from "../testing/command.ts";
import {
  greeted,
  inEachMode,
  inMemory,
  MODES,
  specOver,
} from "../testing/spec.ts";
import { memory } from "../testing/transports.ts";
import { Inbox, turns } from "../testing/timing.ts";
import { errorOf, failEveryAccept, inSmallBuffers, stuck } from "./faults.ts";

// ------------------------------------------------------- who is in the queue

/** Waits before each accept, from the next one on. */
function beforeAccepts(listener: MemoryListener, wait: () => unknown): void {
  const next = listener.next.bind(listener);
  listener.next = async () => {
    await wait();
    return await next();
  };
}

/** Takes turns of the event loop after each `count` accepts from now on. */
function acceptPerTurn(
  listener: MemoryListener,
  count: number,
  onTurn = () => {},
  turnsNeeded = 1,
): void {
  let accepts = 0;
  beforeAccepts(listener, async () => {
    if (++accepts % count > 0) return;
    for (let turn = 0; turn < turnsNeeded; turn++) {
      await turns(1);
      onTurn();
    }
  });
}

inMemory(
  "a shutdown serves the queue, also if every other accept fails",
  {},
  async ({ network: { listener }, server, connect, connectMany, clock }) => {
    const held = await greeted(connect); // so there is hope
    let accepts = 0;
    beforeAccepts(listener, () => {
      if (++accepts % 2 === 0) throw errorOf("EMFILE");
      return accepts % 32 === 1 ? turns(1) : undefined; // not all in one turn
    });
    const connected = connectMany(2200); // with failures, more than 4097
    const stopped = server.shutdown();
    const asked = connected.then(askEach);
    assertEquals(await clock.run(asked), answers(2200));
    held.close();
    await clock.run(stopped);
  },
);

inMemory("a shutdown serves 4096 clients in the queue", {}, async (service) => {
  const { network: { listener }, server, connectMany } = service;
  acceptPerTurn(listener, 32);
  const connected = connectMany(4300);
  const stopped = server.shutdown();
  assertEquals(listener.queued, 4299); // one was being waited for
  const asked = askEach(await connected);
  await stopped;
  const echoed = (await asked).filter((text) => text.startsWith(GREETING));
  // Newcomers must not hold it up for ever.
  assert(echoed.length >= 4096 && echoed.length < 4200, `${echoed.length}`);
});

// Deno polls some 128 operations per turn, so an accept may take some turns.
for (const [clients, delay] of [[0, 4], [100, 20]]) {
  inMemory(
    `a shutdown beside ${clients} clients waits ${delay} turns for an accept`,
    {},
    async (service) => {
      const { network: { listener }, server, connect, exchange } = service;
      const idle = await service.connectMany(clients);
      for (const client of idle) await readExactly(client, GREETING.length);
      beforeAccepts(listener, () => turns(delay));
      await exchange("hoge"); // by the accept that was pending
      const answer = ask(await connect(), "hoge");
      const stopped = server.shutdown();
      await turns(1);
      idle.forEach((client) => client.close());
      assertEquals(await answer, `${GREETING}hoge`);
      await stopped;
    },
  );
}

inMemory(
  "a shutdown waits for each accept anew",
  { maxConnections: 1 },
  async ({ network: { listener }, server, connectMany, clock }) => {
    beforeAccepts(listener, () => turns(3));
    const clients = await connectMany(600);
    const stopped = server.shutdown();
    for (const client of clients) {
      await turns(5);
      clock.now++; // in all more than accepts may wait
      assertEquals(await ask(client, "hoge"), `${GREETING}hoge`);
    }
    await stopped;
  },
);

// ------------------------------------------------------- who is being served

inEachMode(
  "the end of the grace is an abort",
  { maxConnections: 1, grace: 100 },
  async ({ network, server, connect, connectMany, outcomes, clock }) => {
    const first = await greeted(connect);
    const queued = await connectMany(2);
    await clock.run(server.shutdown());
    assertEquals(clock.now, 100);
    assertEquals(network.listener.queued, 0);
    const texts = await Promise.all([first, ...queued].map(readText));
    assertEquals(texts, ["", "", ""]);
    assertEquals(await outcomes(3), Array(3).fill("shutdown"));
  },
);

inMemory(
  "the grace ends between two deadlines",
  { timeout: 100, grace: 70 },
  async ({ server, connect, exchanges, clock }) => {
    await greeted(connect); // until 100
    clock.advance(50);
    await greeted(connect); // until 150
    await clock.run(server.shutdown()); // until 120
    const ends = exchanges.all.map(({ outcome, ms }) => [outcome, ms]);
    assertEquals(ends, [["timeout", 100], ["shutdown", 70]]);
  },
);

inMemory("closing the listener starts the grace", {}, async (service) => {
  const { network, server, connect, outcomes, clock } = service;
  await greeted(connect);
  network.listener.close();
  await clock.run(server.finished);
  assertEquals(await outcomes(1), ["shutdown"]);
  assertEquals(clock.now, 10_000);
});

inMemory(
  "closing the listener during one leaves no timer",
  {},
  async (service) => {
    const { network: { listener }, server, clock } = service;
    const stopped = server.shutdown();
    listener.close();
    await stopped;
    assertEquals(clock.pending, 0);
  },
);

for (
  const [what, outcome] of [["a timeout", "timeout"], ["an abort", "shutdown"]]
) {
  for (const then of ["abort", "reset"]) {
    inMemory(
      `after ${what} the outcome is ${outcome}, whatever follows: ${then}`,
      { greeting: new Uint8Array(1 << 20), timeout: 100 },
      async ({ connect, exchanges, abort, clock }) => {
        const client = await connect();
        await turns();
        if (what === "an abort") abort();
        else clock.advance(100);
        await turns(); // its write is stuck, so it is drained for 50 ms
        if (then === "abort") abort();
        else client.reset();
        const [exchange] = await clock.run(exchanges.waitFor(1));
        assertEquals([exchange.outcome, exchange.bytes], [outcome, 0]);
      },
    );
  }
}

inSmallBuffers(
  "an echo still being written at an abort does not linger",
  { greeting: "", maxBytes: 100 },
  async ({ network, connect, server, outcomes, abort, clock }) => {
    network.listener.onAccept = stuck;
    const client = await connect();
    await send(client, digits(100));
    await turns(); // it has been read, and its echo cannot be written
    abort();
    await turns();
    await readExactly(client, 200); // now it can
    await clock.run(server.finished);
    assertEquals(await outcomes(1), ["echoed"]);
    assertEquals(clock.now, 0);
  },
);

inMemory(
  "a stuck write gets 50 ms more, also when the grace is over",
  { greeting: new Uint8Array(1 << 20), grace: 0 },
  async ({ connect, server, abort, clock }) => {
    const client = await connect();
    await turns();
    abort();
    await turns();
    await send(client, "late");
    const before = clock.now;
    await clock.run(server.finished);
    assertEquals(clock.now - before, 50);
    await readAll(client); // a reset would reject
  },
);

// ------------------------------------------------------ while accepting fails

for (const end of ["shutdown", "abort"] as const) {
  inMemory(
    `${end} ends a back-off, and soon the server`,
    {},
    async (service) => {
      const { network: { listener }, server, acceptErrors, clock } = service;
      failEveryAccept(listener, () => errorOf("EMFILE"));
      listener.fail(errorOf("EMFILE")); // the accept that is pending
      await clock.run(acceptErrors.waitFor(12)); // now it waits for a second
      const before = clock.now;
      end === "abort" ? service.abort() : server.shutdown();
      await clock.run(server.finished);
      assertEquals(clock.now - before, 5 + 10 + 20 + 40 + 80);
    },
  );
}

inMemory(
  "the grace ends while out of file descriptors",
  { grace: 0 },
  async ({ network, server, connect, connectMany, clock }) => {
    await greeted(connect);
    for (let i = 0; i < 3; i++) network.listener.fail(errorOf("EMFILE"));
    const queued = await connectMany(100);
    await Promise.all(queued.map((client) => send(client, "hoge")));
    await clock.run(server.shutdown());
    assertEquals(network.listener.queued, 0);
    await Promise.all(queued.map(readAll));
  },
);

inMemory(
  "out of file descriptors, a shutdown serves the queue if a client is left",
  {},
  async (service) => {
    const { network: { listener }, server, connect, acceptErrors } = service;
    const client = await greeted(connect);
    for (let i = 0; i < 8; i++) listener.fail(errorOf("EMFILE"));
    const queued = await connect();
    server.shutdown();
    await service.clock.run(acceptErrors.waitFor(8));
    assertEquals(await ask(client, "hoge"), "hoge");
    assertEquals(await ask(queued, "hoge"), `${GREETING}hoge`);
  },
);

Deno.test("a shutdown gives up a listener that fails in two ways", async () => {
  using clock = new FakeClock();
  const error = (attempt: number) => errorOf(attempt % 5 ? "EMFILE" : "EINVAL");
  const listener = failEveryAccept(new MemoryListener(), error);
  const server = serve(listener, { grace: 0, onAcceptError: () => {} });
  await clock.run(server.shutdown());
  assert(clock.now <= 1000, `after ${clock.now} ms`);
});

// ------------------------------------------------------------- the signal

Deno.test("a signal that is aborted already ends the server", async () => {
  const listener = new MemoryListener();
  await serve(listener, { signal: AbortSignal.abort() }).finished;
  assertEquals(listener.closes, 1);
});

inMemory("an abort takes effect at once", {}, async ({ connect, abort }) => {
  const client = await greeted(connect);
  abort();
  assertEquals(client.peer.closed, true);
});

Deno.test("the server removes its abort listener", async () => {
  const { signal } = new AbortController();
  const listeners = new Set();
  signal.addEventListener = (_type: string, f: unknown) => listeners.add(f);
  signal.removeEventListener = (_type: string, f: unknown) =>
    listeners.delete(f);
  const server = serve(new MemoryListener(), { signal });
  assertEquals(listeners.size, 1);
  await server.shutdown();
  assertEquals(listeners.size, 0);
});

// ------------------------------------------------------------- newcomers

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
      const args = ["-p0", "--grace=0", "--mode", mode];
      await using command = new ServerProcess(args);
      const port = await command.ready();
      using _idle = mode === "serial" ? undefined : await greetMany(port, 1);
      const ends = new Inbox<string>();
      let started = 0;
      const arriving = setInterval(() => {
        started++;
        exchange(port, "hoge").then(ends.push, ends.push);
      }, 3);
      try {
        await ends.waitFor(50);
        const { length } = ends.all;
        command.kill("SIGTERM");
        // Half a second is under 200 newcomers.
        const many = ends.waitFor(length + 1000).then(() => "many newcomers");
        assertEquals(await Promise.race([many, command.code()]), 0);
      } finally {
        clearInterval(arriving);
        await ends.waitFor(started);
      }
    },
  );
}

// ------------------------------ on a machine that is slow, or was stopped

inMemory(
  "stopped for a second during a shutdown: the queue is served",
  {},
  async ({ network: { listener }, server, connectMany, clock }) => {
    acceptPerTurn(listener, 32);
    const clients = await connectMany(500);
    const stopped = server.shutdown();
    await turns(2);
    clock.now += 1000;
    assertEquals(await askEach(clients), answers(500));
    await stopped;
  },
);

// The turn after many accepts goes to the first operations of these clients.
for (const turnsNeeded of [1, 2]) {
  inMemory(
    `a slow machine: a shutdown serves 2000 clients, 64 in ${turnsNeeded} turns of 100 ms`,
    {},
    async ({ network: { listener }, server, connectMany, clock }) => {
      acceptPerTurn(listener, 64, () => clock.now += 100, turnsNeeded);
      const clients = await connectMany(2000);
      const stopped = server.shutdown();
      assertEquals(await askEach(clients), answers(2000));
      await stopped;
    },
  );
}

inMemory(
  "a slow machine: a grace of 0 ends within a second, however long the queue",
  { grace: 0 },
  async ({ network: { listener }, server, connectMany, clock }) => {
    acceptPerTurn(listener, 64, () => clock.now += 100);
    await connectMany(2000);
    await clock.run(server.shutdown());
    assert(clock.now <= 1000, `after ${clock.now} ms`);
  },
);

inMemory(
  "a slow machine: an abort gives the queue no more time",
  { grace: 0 },
  async ({ network: { listener }, server, abort, connectMany, clock }) => {
    acceptPerTurn(listener, 64, () => {
      clock.now += 100;
      if (clock.now >= 700) abort();
    });
    await connectMany(2000);
    await clock.run(server.shutdown());
    assert(clock.now <= 1000, `after ${clock.now} ms`);
  },
);

inMemory(
  "a slow machine: a grace of 0 ends within a second, whoever makes progress",
  { grace: 0, greeting: new Uint8Array(1 << 20) },
  async ({ server, connect, clock }) => {
    const client = await connect();
    await turns();
    const ended = server.shutdown().then(() => clock.now);
    const reading = (async () => {
      while (await client.read(new Uint8Array(100))) {
        await turns(1);
        clock.now += 50;
      }
    })();
    const ms = await clock.run(ended);
    assert(ms <= 1000, `after ${ms} ms`);
    await reading;
  },
);

specOver([memory], ["serial"])(
  "a slow machine: a grace of 0 ends within a second, one after the other",
  { grace: 0 },
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
        clock.now += 5; // for each greeting and echo
        return await write(p);
      };
    };
    const connected = connectMany(300);
    const stopped = server.shutdown();
    const asked = askEach(await connected);
    await clock.run(stopped);
    assertEquals(await asked, answers(300));
    assertEquals(exchanges.all.length, 300);
  },
);
