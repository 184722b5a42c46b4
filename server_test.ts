import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type EchoServer,
  type Exchange,
  type Listener,
  type Mode,
  serve,
  type ServeOptions,
} from "./server.ts";
import {
  ask,
  bytesOf,
  connect,
  connectMany,
  exchange,
  GREETING,
  Inbox,
  needs,
  readAll,
  readExactly,
  reset,
  textOf,
  turn,
  withNet,
} from "./tools/testing.ts";

// ---------------------------------------------------------------- helpers

const MODES: Mode[] = ["concurrent", "serial", "events"];

type Outcomes = Inbox<Exchange>;
const outcomesOf = (exchanges: Outcomes) =>
  exchanges.all.map(({ outcome }) => outcome);

/** Serves on a listener; every finished exchange goes to `exchanges`. */
function startOn(
  listener: Listener,
  options: ServeOptions,
): { server: EchoServer; exchanges: Outcomes } {
  const exchanges: Outcomes = new Inbox();
  const server = serve(listener, { onExchange: exchanges.push, ...options });
  return { server, exchanges };
}

/** Serves on a free port. */
function start(options: ServeOptions = {}) {
  const listener = Deno.listen({
    hostname: "127.0.0.1",
    port: 0,
    tcpBacklog: 4096,
  });
  return { ...startOn(listener, options), port: listener.addr.port };
}

/** A connection without a network: the test is its client. */
class MemoryConn {
  readonly remoteAddr: Deno.Addr = {
    transport: "tcp",
    hostname: "192.0.2.1",
    port: 7,
  };
  readonly received: number[] = [];
  readonly closed = Promise.withResolvers<void>();
  #input: (Uint8Array | null | Error)[];
  #wake = () => {};
  #open = true;

  /** `input` is what the reads get, `null` being the end of file. */
  constructor(input: (string | null | Error)[] = []) {
    this.#input = input.map((x) => typeof x === "string" ? bytesOf(x) : x);
  }

  say(text: string | null): void {
    this.#input.push(text === null ? null : bytesOf(text));
    this.#wake();
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (this.#open && this.#input.length === 0) {
      await new Promise<void>((wake) => this.#wake = wake);
    }
    if (!this.#open) throw new Deno.errors.BadResource("closed");
    const next = this.#input.shift()!;
    if (next instanceof Error) throw next;
    if (next === null) return null;
    into.set(next.subarray(0, into.length));
    if (next.length > into.length) {
      this.#input.unshift(next.subarray(into.length));
    }
    return Math.min(next.length, into.length);
  }

  write(bytes: Uint8Array): Promise<number> {
    if (!this.#open) throw new Deno.errors.BadResource("closed");
    this.received.push(...bytes);
    return Promise.resolve(bytes.length);
  }

  closeWrite(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    if (!this.#open) throw new Deno.errors.BadResource("closed");
    this.#open = false;
    this.#wake();
    this.closed.resolve();
  }

  get text(): string {
    return textOf(new Uint8Array(this.received));
  }
}

/** A listener without a network. An `Error` in its queue fails that accept. */
class MemoryListener {
  readonly addr: Deno.Addr = {
    transport: "tcp",
    hostname: "192.0.2.1",
    port: 30000,
  };
  #queue: (MemoryConn | Error)[] = [];
  #wake = () => {};
  #open = true;
  closes = 0;

  /** Puts connections into the queue. */
  offer<T extends (MemoryConn | Error)[]>(...conns: T): T {
    this.#queue.push(...conns);
    this.#wake();
    return conns;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  async next(): Promise<IteratorResult<MemoryConn>> {
    while (this.#open && this.#queue.length === 0) {
      await new Promise<void>((wake) => this.#wake = wake);
    }
    if (!this.#open) return { done: true, value: undefined };
    const next = this.#queue.shift()!;
    if (next instanceof Error) throw next;
    return { done: false, value: next };
  }

  close(): void {
    this.closes++;
    this.#open = false;
    this.#wake();
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** Serves on a listener without a network. */
function startMemory(options: ServeOptions = {}) {
  const listener = new MemoryListener();
  return { ...startOn(listener as unknown as Listener, options), listener };
}

// ------------------------------------------------- one exchange, in each mode

for (const mode of MODES) {
  withNet(
    `${mode}: greets first, echoes one read and ends the file`,
    async () => {
      const { server, port, exchanges } = start({ mode });
      await using _ = server;
      using conn = await connect(port);
      assertEquals(await readExactly(conn, GREETING.length), GREETING);
      assertEquals(await ask(conn, "hoge\r\n"), "hoge\r\n");
      const [{ remote, outcome, bytes, ms }] = await exchanges.waitFor(1);
      assertEquals(remote, conn.localAddr);
      assertEquals({ outcome, bytes }, { outcome: "echoed", bytes: 6 });
      assert(ms > 0);
    },
  );

  withNet(
    `${mode}: a client that only ends its side gets the greeting`,
    async () => {
      const { server, port, exchanges } = start({ mode });
      await using _ = server;
      using conn = await connect(port);
      await conn.closeWrite();
      assertEquals(textOf(await readAll(conn)), GREETING);
      await exchanges.waitFor(1);
      assertEquals(outcomesOf(exchanges), ["eof"]);
      assertEquals(exchanges.all[0].bytes, 0);
    },
  );

  withNet(
    `${mode}: a client that sends and ends its side gets its echo`,
    async () => {
      const { server, port, exchanges } = start({ mode });
      await using _ = server;
      using conn = await connect(port);
      await conn.write(bytesOf("hoge"));
      await conn.closeWrite();
      assertEquals(textOf(await readAll(conn)), GREETING + "hoge");
      await exchanges.waitFor(1);
      assertEquals(outcomesOf(exchanges), ["echoed"]);
    },
  );

  withNet(`${mode}: all byte values come back, and not one more`, async () => {
    const { server, port } = start({ mode, greeting: "" });
    await using _ = server;
    using conn = await connect(port);
    const message = Uint8Array.from({ length: 256 }, (_, i) => i);
    await conn.write(message);
    assertEquals(await readAll(conn), message);
  });

  withNet(
    `${mode}: takes maxBytes at most, and no reset for the rest`,
    async () => {
      const { server, port, exchanges } = start({ mode });
      await using _ = server;
      using conn = await connect(port);
      await conn.write(bytesOf("x".repeat(5000)));
      const answer = textOf(await readAll(conn));
      assertEquals(answer, GREETING + "x".repeat(1024));
      await exchanges.waitFor(1);
      assertEquals(exchanges.all[0].bytes, 1024);
      assertEquals(outcomesOf(exchanges), ["echoed"]);
    },
  );

  withNet(
    `${mode}: too much, read late: the echo and a clean end`,
    async () => {
      const { server, port, exchanges } = start({ mode });
      await using _ = server;
      using conn = await connect(port);
      await conn.write(bytesOf("x".repeat(5000)));
      await exchanges.waitFor(1); // it is over for the server, drained and closed
      assertEquals(
        textOf(await readAll(conn)),
        GREETING + "x".repeat(1024),
      );
    },
  );

  withNet(
    `${mode}: a second message, read late: the first echo and a clean end`,
    async () => {
      const { server, port, exchanges } = start({ mode });
      await using _ = server;
      using conn = await connect(port);
      await conn.write(bytesOf("first"));
      await exchanges.waitFor(1);
      assertEquals(await ask(conn, "second"), GREETING + "first");
    },
  );

  withNet(`${mode}: a short write is continued`, async () => {
    const greeting = "g".repeat(8 << 20);
    const { server, port } = start({ mode, greeting });
    await using _ = server;
    using conn = await connect(port);
    assertEquals(await readExactly(conn, greeting.length), greeting);
    assertEquals(await ask(conn, "hoge"), "hoge");
  });

  withNet(`${mode}: a silent client times out with a clean end`, async () => {
    const { server, port, exchanges } = start({ mode, timeout: 200 });
    await using _ = server;
    using conn = await connect(port);
    assertEquals(textOf(await readAll(conn)), GREETING);
    await exchanges.waitFor(1);
    assertEquals(outcomesOf(exchanges), ["timeout"]);
    assert(exchanges.all[0].ms >= 200, `after ${exchanges.all[0].ms} ms`);
  });

  withNet(
    `${mode}: a client that never reads times out with a clean end`,
    async () => {
      const greeting = "g".repeat(8 << 20);
      const { server, port, exchanges } = start({
        mode,
        greeting,
        timeout: 200,
      });
      await using _ = server;
      using conn = await connect(port);
      await conn.write(bytesOf("unread, and no reason for a reset"));
      await exchanges.waitFor(1);
      assertEquals(outcomesOf(exchanges), ["timeout"]);
      const { length } = await readAll(conn); // rejects if there was a reset
      assert(length < greeting.length);
    },
  );

  withNet(`${mode}: a reset is an outcome, not an end`, async () => {
    const { server, port, exchanges } = start({ mode });
    await using _ = server;
    await reset(port, "data");
    await exchanges.waitFor(1);
    assertEquals(outcomesOf(exchanges), ["reset"]);
    await reset(port, "connect");
    assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
  });

  withNet(`${mode}: an abort ends idle clients cleanly, at once`, async () => {
    const controller = new AbortController();
    const { server, port, exchanges } = start({
      mode,
      signal: controller.signal,
    });
    using conn = await connect(port);
    await readExactly(conn, GREETING.length);
    controller.abort();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    await server.finished;
    assertEquals(outcomesOf(exchanges), ["shutdown"]);
  });

  withNet(`${mode}: shutdown lets the exchange in hand finish`, async () => {
    const { server, port, exchanges } = start({ mode });
    using conn = await connect(port);
    await readExactly(conn, GREETING.length);
    const stopped = server.shutdown();
    assertEquals(await ask(conn, "last words"), "last words");
    await stopped;
    assertEquals(outcomesOf(exchanges), ["echoed"]);
  });

  withNet(
    `${mode}: shutdown serves those who wait in the kernel's queue`,
    async () => {
      const { server, port, exchanges } = start({ mode, maxConnections: 1 });
      using first = await connect(port);
      await readExactly(first, GREETING.length);
      const waiting = Array.from({ length: 100 }, async (_, i) => {
        using conn = await connect(port);
        connected.push(i);
        await conn.write(bytesOf(`${i}`));
        return textOf(await readAll(conn));
      });
      const connected = new Inbox<number>();
      await connected.waitFor(100);
      const stopped = server.shutdown();
      await first.closeWrite();
      assertEquals(
        await Promise.all(waiting),
        waiting.map((_, i) => `${GREETING}${i}`),
      );
      await stopped;
      assertEquals(exchanges.all.length, 101);
    },
  );

  withNet(
    `${mode}: shutdown twice and after an abort settles once`,
    async () => {
      const controller = new AbortController();
      const { server } = start({ mode, signal: controller.signal });
      let settled = 0;
      server.finished.then(() => settled++);
      const twice = [server.shutdown(), server.shutdown()];
      controller.abort();
      await Promise.all([...twice, server.shutdown(), server.finished]);
      assertEquals(settled, 1);
    },
  );

  Deno.test(`${mode}: in memory, a short write and a short read`, async () => {
    const { server, listener, exchanges } = startMemory({ mode });
    await using _ = server;
    class Slow extends MemoryConn {
      override write(bytes: Uint8Array): Promise<number> {
        return super.write(bytes.subarray(0, 3));
      }
    }
    const [conn] = listener.offer(new Slow(["hoge\r\n"]));
    await conn.closed.promise;
    assertEquals(conn.text, GREETING + "hoge\r\n");
    assertEquals(exchanges.all[0].bytes, 6);
  });

  Deno.test(`${mode}: in memory, what fails is an outcome`, async () => {
    const { server, listener, exchanges } = startMemory({ mode });
    await using _ = server;
    class NoWrite extends MemoryConn {
      override write(): Promise<number> {
        return Promise.reject(new Deno.errors.BrokenPipe());
      }
    }
    listener.offer(
      new NoWrite(),
      new MemoryConn([new Deno.errors.ConnectionReset()]),
      new MemoryConn([new Error("odd")]),
      new MemoryConn([new Deno.errors.UnexpectedEof()]),
      new MemoryConn([null]),
      new MemoryConn(["last"]),
    );
    await exchanges.waitFor(6);
    assertEquals(outcomesOf(exchanges).toSorted(), [
      "echoed",
      "eof",
      "eof",
      "error",
      "reset",
      "reset",
    ]);
  });

  Deno.test(`${mode}: in memory, accepting goes on after every failure`, async () => {
    const errors: unknown[] = [];
    const { server, listener } = startMemory({
      mode,
      onAcceptError: (error) => errors.push(error),
    });
    await using _ = server;
    const full = Object.assign(new Error("Too many open files"), {
      code: "EMFILE",
    });
    const conns = [new MemoryConn(["a"]), new MemoryConn(["b"])];
    listener.offer(
      new Deno.errors.NotConnected(),
      conns[0],
      full,
      new Deno.errors.ConnectionAborted(),
      conns[1],
    );
    await Promise.all(conns.map((conn) => conn.closed.promise));
    assertEquals(conns.map((conn) => conn.text), [
      GREETING + "a",
      GREETING + "b",
    ]);
    assertEquals(errors, [full]); // a client that did not wait is no error
  });
}

// ------------------------------------------------------------ the three modes

withNet(
  "serial: a second client gets no greeting until the first is done",
  async () => {
    const { server, port, exchanges } = start({ mode: "serial" });
    await using _ = server;
    using first = await connect(port);
    await readExactly(first, GREETING.length);
    using second = await connect(port);
    let greeted = false;
    const greeting = readExactly(second, GREETING.length).then((text) => {
      greeted = true;
      return text;
    });
    await first.write(bytesOf("one"));
    assertEquals(greeted, false);
    assertEquals(textOf(await readAll(first)), "one");
    assertEquals(await greeting, GREETING);
    assertEquals(await ask(second, "two"), "two");
    await exchanges.waitFor(2);
    assertEquals(outcomesOf(exchanges), ["echoed", "echoed"]);
  },
);

Deno.test("serial: in memory, the second connection is not even taken", async () => {
  const { server, listener } = startMemory({ mode: "serial" });
  await using _ = server;
  const [first, second] = listener.offer(new MemoryConn(), new MemoryConn());
  while (first.text !== GREETING) await turn();
  assertEquals(listener.waiting, 1);
  assertEquals(second.text, "");
  first.say("one");
  await first.closed.promise;
  second.say("two");
  await second.closed.promise;
  assertEquals(second.text, GREETING + "two");
});

for (const mode of ["concurrent", "events"] as const) {
  withNet(`${mode}: a silent first client keeps nobody waiting`, async () => {
    const { server, port } = start({ mode });
    await using _ = server;
    using silent = await connect(port);
    await readExactly(silent, GREETING.length);
    for (let i = 0; i < 10; i++) {
      assertEquals(await exchange(port, `${i}`), `${GREETING}${i}`);
    }
  });

  Deno.test(`${mode}: in memory, clients that never read keep nobody waiting`, async () => {
    const { server, listener } = startMemory({ mode, timeout: 500 });
    await using _ = server;
    class Stuck extends MemoryConn {
      override async write(): Promise<number> {
        await this.closed.promise;
        throw new Deno.errors.BadResource("closed");
      }
    }
    listener.offer(...Array.from({ length: 200 }, () => new Stuck()));
    const [conn] = listener.offer(new MemoryConn(["hoge"]));
    await conn.closed.promise;
    assertEquals(conn.text, GREETING + "hoge");
  });
}

withNet(
  "a crowd that never reads a large greeting keeps nobody waiting",
  async () => {
    const { server, port, exchanges } = start({
      greeting: new Uint8Array(8 << 20),
      timeout: 60_000,
    });
    const crowd = await connectMany(port, 100);
    using conn = await connect(port);
    await readExactly(conn, 8 << 20);
    assertEquals(await ask(conn, "hoge"), "hoge");
    await exchanges.waitFor(1);
    assertEquals(outcomesOf(exchanges), ["echoed"]);
    crowd.forEach((conn) => conn.close());
    await server.shutdown();
    assertEquals(exchanges.all.length, 101);
  },
);

// ------------------------------------------------------------------ the limits

for (const mode of ["concurrent", "events"] as const) {
  withNet(
    `${mode}: maxConnections is reached, never exceeded, and kept in order`,
    async () => {
      const { server, port, exchanges } = start({
        mode,
        maxConnections: 3,
        timeout: 300,
      });
      await using _ = server;
      const greeted = new Inbox<number>();
      let most = 0;
      // One in each way to end, again and again: each gives its place back.
      const ways: ((conn: Deno.Conn) => Promise<void>)[] = [
        async (conn) => void await conn.write(bytesOf("hoge")),
        (conn) => conn.closeWrite(),
        (conn) => Promise.resolve(conn.close()),
        () => Promise.resolve(), // silent: a timeout
        async (conn) => void await conn.write(bytesOf("x".repeat(5000))),
      ];
      const clients: Promise<void>[] = [];
      for (let i = 0; i < 20; i++) {
        const conn = await connect(port); // so they are in the queue in order
        clients.push((async () => {
          await readExactly(conn, GREETING.length);
          greeted.push(i);
          most = Math.max(most, greeted.all.length - exchanges.all.length);
          await ways[i % ways.length](conn);
          try {
            await readAll(conn);
            conn.close();
          } catch { /* it closed its connection itself */ }
        })());
      }
      await Promise.all(clients);
      await exchanges.waitFor(20);
      assertEquals(greeted.all, Array.from({ length: 20 }, (_, i) => i));
      assert(most <= 3, `${most} at once`);
      const counts = Object.groupBy(
        outcomesOf(exchanges),
        (outcome) => outcome,
      );
      assertEquals(counts.timeout?.length, 4);
      assertEquals(counts.echoed?.length, 8);
    },
  );
}

Deno.test("in memory, maxConnections is reached and never exceeded", async () => {
  const { server, listener } = startMemory({ maxConnections: 2 });
  await using _ = server;
  const conns = Array.from({ length: 5 }, () => new MemoryConn());
  listener.offer(...conns);
  for (const [i, conn] of conns.entries()) {
    while (conn.text !== GREETING) await turn();
    const waiting = Math.max(0, conns.length - i - 2);
    while (listener.waiting > waiting) await turn(); // reached ...
    for (let turns = 0; turns < 10; turns++) await turn();
    assertEquals(listener.waiting, waiting); // ... and not exceeded
    conn.say(i % 2 === 0 ? "hoge" : null);
    await conn.closed.promise;
  }
});

withNet("thousands of silent clients time out together", async () => {
  const { server, port, exchanges } = start({ timeout: 400 });
  await using _ = server;
  const conns = await connectMany(port, 2000);
  const answers = await Promise.all(conns.map(readAll));
  assert(answers.every((answer) => textOf(answer) === GREETING));
  await exchanges.waitFor(2000);
  assert(outcomesOf(exchanges).every((outcome) => outcome === "timeout"));
  conns.forEach((conn) => conn.close());
});

// --------------------------------------------------------------- the API's edges

Deno.test("thousands of connections cost no timer each", async () => {
  const { setTimeout } = globalThis;
  let timers = 0;
  globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) => {
    timers++;
    return setTimeout(...args);
  }) as typeof setTimeout;
  try {
    const { server, listener, exchanges } = startMemory({ timeout: 100 });
    listener.offer(...Array.from({ length: 5000 }, () => new MemoryConn()));
    await exchanges.waitFor(5000);
    assert(outcomesOf(exchanges).every((outcome) => outcome === "timeout"));
    await server.shutdown();
  } finally {
    globalThis.setTimeout = setTimeout;
  }
  assert(timers > 0 && timers < 100, `${timers} timers`);
});

Deno.test("failing accepts are tried again after 5 ms doubling to 1 s", async () => {
  // With a clock that only the timers advance.
  const { setTimeout } = globalThis;
  const now = performance.now;
  let clock = 0;
  performance.now = () => clock;
  globalThis.setTimeout = ((wake: () => void, ms = 0) =>
    setTimeout(() => {
      clock += ms;
      wake();
    }, 0)) as typeof setTimeout;
  const times: number[] = [];
  try {
    const { server, listener } = startMemory({
      timeout: 0,
      onAcceptError: () => times.push(clock),
    });
    const full = new Error("Too many open files");
    listener.offer(...Array.from({ length: 11 }, () => full));
    const [conn] = listener.offer(new MemoryConn([null]));
    await conn.closed.promise;
    listener.offer(full); // the one that came between starts it anew
    const [next] = listener.offer(new MemoryConn([null]));
    await next.closed.promise;
    times.push(clock);
    await server.shutdown();
  } finally {
    globalThis.setTimeout = setTimeout;
    performance.now = now;
  }
  const waits = times.slice(1).map((time, i) => time - times[i]);
  assertEquals(
    waits,
    [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 5],
  );
});

Deno.test("wrong options throw and name the option", () => {
  const listener = new MemoryListener() as unknown as Listener;
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
    assertThrows(() => serve(listener, options as ServeOptions), type, name);
  }
});

Deno.test("a greeting of bytes is sent as it was when the server started", async () => {
  const greeting = new Uint8Array([0, 255, 13]);
  const { server, listener } = startMemory({ greeting });
  await using _ = server;
  greeting.fill(1);
  const [conn] = listener.offer(new MemoryConn([null]));
  await conn.closed.promise;
  assertEquals(conn.received, [0, 255, 13]);
});

Deno.test("a signal that is aborted already stops the server", async () => {
  const { server, listener } = startMemory({ signal: AbortSignal.abort() });
  await server.finished;
  assertEquals(listener.closes, 1);
});

Deno.test("a listener closed from outside finishes the server", async () => {
  const { server, listener, exchanges } = startMemory();
  const [conn] = listener.offer(new MemoryConn());
  while (conn.text === "") await turn();
  listener.close();
  conn.say("hoge");
  await server.finished;
  await server.shutdown();
  assertEquals(conn.text, GREETING + "hoge");
  assertEquals(outcomesOf(exchanges), ["echoed"]);
});

withNet("a Deno.Listener closed from outside finishes the server", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = serve(listener);
  listener.close();
  await server.finished;
});

Deno.test("what a callback throws is printed and harms nobody", async () => {
  const printed: unknown[] = [];
  const { error } = console;
  console.error = (what: unknown) => void printed.push(what);
  try {
    const fault = new Error("in a callback");
    const { server, listener } = startMemory({
      onExchange: () => {
        throw fault;
      },
      onAcceptError: () => Promise.reject(fault),
    });
    const [conn] = listener.offer(new MemoryConn(["hoge"]));
    await conn.closed.promise;
    const [, after] = listener.offer(new Error("odd"), new MemoryConn([null]));
    await (after as MemoryConn).closed.promise;
    await server.shutdown();
    assertEquals(printed, [fault, fault, fault]);
  } finally {
    console.error = error;
  }
});

// ---------------------------------------- faults that came from outside an exchange

/** Runs `fn` with a setTimeout that is replaced. */
async function withSetTimeout(
  replace: (original: typeof setTimeout) => typeof setTimeout,
  fn: () => Promise<void>,
): Promise<void> {
  const original = globalThis.setTimeout;
  globalThis.setTimeout = replace(original);
  try {
    await fn();
  } finally {
    globalThis.setTimeout = original;
  }
}

/** Runs `fn` without any timer: nothing in it may depend on one. */
const withoutTimers = (fn: () => Promise<void>) =>
  withSetTimeout(() => (() => 0) as unknown as typeof setTimeout, fn);

const fault = () => {
  throw new Error("a fault");
};

for (const mode of MODES) {
  Deno.test(`${mode}: a callback and console.error that throw are isolated`, async () => {
    const { error } = console;
    console.error = fault;
    try {
      const { server, listener } = startMemory({ mode, onExchange: fault });
      const [first] = listener.offer(new MemoryConn(["first"]));
      await first.closed.promise;
      const conns = listener.offer(new MemoryConn(), new MemoryConn());
      while (listener.waiting > (mode === "serial" ? 1 : 0)) await turn();
      for (let turns = 0; turns < 5; turns++) await turn();
      conns.forEach((conn, i) => conn.say(`client ${i}`));
      await server.shutdown();
      assertEquals(conns.map((conn) => conn.text), [
        `${GREETING}client 0`,
        `${GREETING}client 1`,
      ]);
    } finally {
      console.error = error;
    }
  });

  Deno.test(`${mode}: a callback may abort the signal, even in a shutdown`, async () => {
    const controller = new AbortController();
    const outcomes: string[] = [];
    const listener = new MemoryListener();
    const server = serve(listener as unknown as Listener, {
      mode,
      timeout: 50,
      signal: controller.signal,
      onExchange: ({ outcome }) => {
        outcomes.push(outcome);
        controller.abort();
      },
    });
    listener.offer(...Array.from({ length: 4 }, () => new MemoryConn()));
    await server.shutdown();
    assertEquals(outcomes[0], "timeout");
    assertEquals(outcomes.length, 4);
  });

  Deno.test(`${mode}: after an abort nobody in the queue is greeted`, async () => {
    const controller = new AbortController();
    const { server, listener, exchanges } = startMemory({
      mode,
      maxConnections: 1,
      signal: controller.signal,
    });
    const conns = Array.from({ length: 200 }, () => new MemoryConn());
    listener.offer(...conns);
    while (conns[0].text === "") await turn();
    controller.abort();
    await server.finished;
    assertEquals(listener.waiting, 0);
    await Promise.all(conns.map((conn) => conn.closed.promise));
    assertEquals(conns.map((conn) => conn.text).join(""), GREETING);
    assertEquals(
      outcomesOf(exchanges),
      Array.from(conns, () => "shutdown"),
    );
  });

  Deno.test(`${mode}: the end of the grace is an abort`, async () => {
    const { server, listener, exchanges } = startMemory({
      mode,
      maxConnections: 1,
      grace: 0,
    });
    const conns = Array.from({ length: 3 }, () => new MemoryConn());
    listener.offer(...conns);
    while (conns[0].text === "") await turn();
    await server.shutdown();
    assertEquals(listener.waiting, 0);
    assertEquals(conns.map((conn) => conn.text), [GREETING, "", ""]);
    assertEquals(outcomesOf(exchanges), ["shutdown", "shutdown", "shutdown"]);
  });
}

Deno.test("the grace ends while out of file descriptors: the queue is accepted", async () => {
  const full = Object.assign(new Error("Too many open files"), {
    code: "EMFILE",
  });
  const { server, listener } = startMemory({ grace: 0 });
  const silent = new MemoryConn();
  const queued = Array.from({ length: 100 }, () => new MemoryConn(["hoge"]));
  listener.offer(silent, full, full, full, ...queued);
  while (silent.text === "") await turn();
  await server.shutdown();
  await Promise.all(queued.map((conn) => conn.closed.promise));
  assertEquals(listener.waiting, 0);
});

Deno.test("no timer is set to a negative delay", async () => {
  const delays: (number | undefined)[] = [];
  await withSetTimeout(
    (original) =>
      ((wake: () => void, ms?: number) => {
        delays.push(ms);
        return original(wake, ms);
      }) as typeof setTimeout,
    async () => {
      const { now } = performance;
      let skew = 0;
      performance.now = () => now.call(performance) + skew;
      try {
        let count = 0;
        const { server, listener } = startMemory({
          timeout: 1,
          grace: 0,
          onExchange: () => {
            count++;
            skew += 30; // it takes its time
          },
        });
        for (let round = 1; round <= 5; round++) {
          listener.offer(...Array.from({ length: 20 }, () => new MemoryConn()));
          while (count < round * 20) await turn();
        }
        await server.shutdown();
      } finally {
        performance.now = now;
      }
    },
  );
  assertEquals(delays.filter((ms) => !(ms! >= 0)), []);
});

for (const mode of MODES) {
  Deno.test(`${mode}: lingering does not block other clients, and is not part of the exchange`, async () => {
    const { server, listener, exchanges } = startMemory({ mode });
    const lingers = new MemoryConn(["x".repeat(1024)]); // and stays open
    const [, next] = listener.offer(lingers, new MemoryConn(["hoge"]));
    await next.closed.promise;
    assertEquals(next.text, `${GREETING}hoge`);
    assertEquals(outcomesOf(exchanges), ["echoed", "echoed"]);
    let open = true;
    lingers.closed.promise.then(() => open = false);
    await turn();
    assertEquals(open, true);
    lingers.say(null);
    await server.shutdown();
  });
}

Deno.test("clients that end before their greeting, or never shake hands, do not block others", async () => {
  await withoutTimers(async () => {
    class Gone extends MemoryConn {
      override write(): Promise<number> {
        return Promise.reject(new Deno.errors.BrokenPipe());
      }
    }
    class NoHandshake extends MemoryConn {
      handshake() {}
      override async write(): Promise<number> {
        await this.closed.promise;
        throw new Deno.errors.BadResource("closed");
      }
    }
    const { listener, exchanges } = startMemory();
    listener.offer(...Array.from({ length: 64 }, () => new Gone()));
    const silent = listener.offer(
      ...Array.from({ length: 64 }, () => new NoHandshake()),
    );
    const [conn] = listener.offer(new MemoryConn(["hoge"]));
    await conn.closed.promise;
    assertEquals(conn.text, `${GREETING}hoge`);
    assertEquals(exchanges.all.length, 65);
    silent.forEach((conn) => conn.close());
    listener.close();
  });
});

withNet(
  "shutdown, then closing the listener, leaves no timer behind",
  async () => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const server = serve(listener);
    const stopped = server.shutdown();
    listener.close();
    await stopped;
  },
);

withNet(
  "as a fixture: a leaked client is closed when the grace is over",
  async () => {
    const { server, port, exchanges } = start({ grace: 0 });
    using leaked = await connect(port);
    await readExactly(leaked, GREETING.length);
    await server[Symbol.asyncDispose]();
    assertEquals(await leaked.read(new Uint8Array(1)), null);
    assertEquals(outcomesOf(exchanges), ["shutdown"]);
  },
);

Deno.test("a listener that can never accept again finishes the server", async () => {
  const dead = Object.assign(new TypeError("Invalid argument"), {
    code: "EINVAL",
  });
  const errors: unknown[] = [];
  const { server, listener } = startMemory({
    onAcceptError: (error) => errors.push(error),
  });
  const [conn] = listener.offer(new MemoryConn(["hoge"]), dead);
  await server.finished;
  assertEquals((conn as MemoryConn).text, `${GREETING}hoge`);
  assertEquals(errors, [dead]);
  assertEquals(listener.closes, 1);
});

Deno.test("timeout: 0 turns TCP keep-alive on, a timeout does not", async () => {
  class KeepAlive extends MemoryConn {
    keepAlive = false;
    setKeepAlive(on: boolean) {
      this.keepAlive = on;
      if (this.text === "") throw new Deno.errors.BadResource("gone already");
    }
  }
  for (const timeout of [0, 60_000]) {
    const { server, listener } = startMemory({ timeout });
    const [conn] = listener.offer(new KeepAlive(["hoge"]));
    await conn.closed.promise;
    await server.shutdown();
    assertEquals(conn.keepAlive, timeout === 0);
    assertEquals(conn.text, `${GREETING}hoge`);
  }
});

Deno.test("a listener that always rejects does not stop the event loop", async () => {
  class Rejects extends MemoryListener {
    override async next(): Promise<IteratorResult<MemoryConn>> {
      if (this.closes === 0) throw new Deno.errors.ConnectionReset();
      return await super.next();
    }
  }
  const server = serve(new Rejects() as unknown as Listener);
  await turn();
  await server.shutdown();
});

// ------------------------------------------------------------- other listeners

/** A key and a certificate for `localhost`, both in one text. */
async function certificate(): Promise<string> {
  const { stdout } = await new Deno.Command("openssl", {
    args: [
      ..."req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256"
        .split(" "),
      ..."-subj /CN=localhost -addext subjectAltName=DNS:localhost".split(" "),
      ..."-addext basicConstraints=CA:FALSE -keyout - -out -".split(" "),
    ],
    stderr: "null",
  }).output();
  return textOf(stdout);
}

/** A listener, and how a client gets to it. */
interface Kind {
  listener: Listener;
  connect: () => Promise<Deno.Conn>;
  clean?: () => Promise<void>;
}

async function tls(): Promise<Kind> {
  const pem = await certificate();
  const listener = Deno.listenTls({
    hostname: "127.0.0.1",
    port: 0,
    cert: pem,
    key: pem,
  });
  return {
    listener,
    connect: async () => {
      const tcp = await connect(listener.addr.port);
      return Deno.startTls(tcp, { hostname: "localhost", caCerts: [pem] });
    },
  };
}

async function unix(): Promise<Kind> {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/echo.sock`;
  return {
    listener: Deno.listen({ transport: "unix", path }),
    connect: () => Deno.connect({ transport: "unix", path }),
    clean: () => Deno.remove(dir, { recursive: true }),
  };
}

const withTls = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run"], ["openssl"], `TLS: ${name}`, fn);
const withUnix = (name: string, fn: () => Promise<void>) =>
  needs(["net", "read", "write"], [], `Unix socket: ${name}`, fn);

for (const [test, kind] of [[withTls, tls], [withUnix, unix]] as const) {
  test("the same exchange", async () => {
    const { listener, connect, clean } = await kind();
    const { server, exchanges } = startOn(listener, {});
    {
      await using _ = server;
      using conn = await connect();
      assertEquals(await readExactly(conn, GREETING.length), GREETING);
      assertEquals(await ask(conn, "hoge"), "hoge");
    }
    assertEquals(outcomesOf(exchanges), ["echoed"]);
    await clean?.();
  });

  test("too much gets its echo and a clean end", async () => {
    const { listener, connect, clean } = await kind();
    const { server, exchanges } = startOn(listener, {});
    {
      await using _ = server;
      using conn = await connect();
      await conn.write(bytesOf("x".repeat(5000)));
      await exchanges.waitFor(1);
      assertEquals(
        textOf(await readAll(conn)),
        GREETING + "x".repeat(1024),
      );
    }
    assertEquals(outcomesOf(exchanges), ["echoed"]);
    await clean?.();
  });

  test("silence times out with a clean end", async () => {
    const { listener, connect, clean } = await kind();
    const { server, exchanges } = startOn(listener, { timeout: 200 });
    {
      await using _ = server;
      using conn = await connect();
      assertEquals(textOf(await readAll(conn)), GREETING);
    }
    assertEquals(outcomesOf(exchanges), ["timeout"]);
    await clean?.();
  });

  test("shutdown serves those in hand and those in the queue", async () => {
    const { listener, connect, clean } = await kind();
    const { server, exchanges } = startOn(listener, { maxConnections: 1 });
    using first = await connect();
    await readExactly(first, GREETING.length);
    using second = await connect();
    const stopped = server.shutdown();
    assertEquals(await ask(first, "one"), "one");
    assertEquals(await ask(second, "two"), GREETING + "two");
    await stopped;
    assertEquals(outcomesOf(exchanges), ["echoed", "echoed"]);
    await clean?.();
  });

  test("an abort ends the idle cleanly", async () => {
    const { listener, connect, clean } = await kind();
    const controller = new AbortController();
    const { signal } = controller;
    const { server, exchanges } = startOn(listener, { signal });
    using conn = await connect();
    await readExactly(conn, GREETING.length);
    controller.abort();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    await server.finished;
    assertEquals(outcomesOf(exchanges), ["shutdown"]);
    await clean?.();
  });
}

withTls(
  "a handshake that fails, or never comes, harms nobody else",
  async () => {
    const { listener, connect: connectTls } = await tls();
    const { server, exchanges } = startOn(listener, { timeout: 1000 });
    const { port } = listener.addr as Deno.NetAddr;
    const silent = await connectMany(port, 100);
    using plain = await connect(port);
    await plain.write(bytesOf("GET / HTTP/1.0\r\n\r\n"));
    await exchanges.waitFor(1);
    assertEquals(outcomesOf(exchanges), ["error"]);
    using conn = await connectTls();
    assertEquals(await ask(conn, "hoge"), GREETING + "hoge");
    await exchanges.waitFor(102);
    assertEquals(
      new Set(outcomesOf(exchanges).slice(2)),
      new Set(["timeout"]),
    );
    silent.forEach((conn) => conn.close());
    await server.shutdown();
  },
);
