/**
 * A one-shot TCP echo service: it greets each client, reads once, echoes what
 * it read and closes.
 *
 * @example A server for your own test, set up and torn down in two lines
 * ```ts
 * import { serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * await using server = serve(listener, { grace: 0 });
 *
 * const { port } = server.addr;
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port });
 * await conn.write(new TextEncoder().encode("hoge\r\n"));
 * const answer = await new Response(conn.readable).text();
 * assertEquals(answer, "Hello World!\r\nhoge\r\n");
 * ```
 *
 * @module
 */

/**
 * Starts to serve the connections of a listener and returns at once. The server
 * owns the listener: it closes it at the end, and also if an option is wrong.
 *
 * @param listener A TCP, TLS or Unix listener, or one of your own.
 * @param options Options that override the defaults.
 * @returns The running server.
 * @throws {TypeError} If the listener or an option has the wrong type.
 * @throws {RangeError} If a number is out of range.
 *
 * @example
 * ```ts
 * import { serve } from "@diary/echo-server";
 *
 * await using server = serve(Deno.listen({ port: 0 }), { timeout: 5_000 });
 * ```
 */
export function serve<A extends Deno.Addr = Deno.Addr>(
  listener: Listener<A>,
  options?: ServeOptions,
): EchoServer<A> {
  const settings = settingsOrClose(listener, options);
  const { addr } = listener;
  const { mode, maxConnections, grace, signal } = settings;
  const clients = new Clients(settings);
  const acceptor = new Acceptor(listener, clients);
  let events: ReadableStreamDefaultController<NetEvent>;
  const queue = new ReadableStream<NetEvent>({
    start(controller) {
      events = controller;
    },
  });

  /** Accepts until the listener is closed, then waits for the last client. */
  async function run(): Promise<void> {
    for await (const client of acceptor) {
      if (mode === "concurrent") {
        exchange(client); // its own task: not awaited
      } else if (mode === "serial") {
        await exchange(client); // the only difference: `await`
      } else {
        events.enqueue({ type: "accept", client });
      }
      // During both waits, further clients stay in the kernel's accept queue.
      if (acceptor.accepted % PACE.every === 0) await client.greeted();
      while (clients.size >= maxConnections) await clients.changed.wait();
    }
    shutdown(); // the listener may have been closed from outside
    await clients.allClosed();
    await acceptor.queueServed;
    signal.removeEventListener("abort", abort);
  }

  async function exchange(client: Client): Promise<void> {
    try {
      await client.greet();
      const n = await client.read();
      await client.echo(n);
    } catch (error) {
      client.fail(error);
    }
    client.close();
  }

  /** The `events` mode: one loop handles accepts and reads, one by one. */
  async function handleEvents(): Promise<void> {
    for await (const { type, client, n = null } of queue) {
      if (type === "accept") {
        client.greet()
          .then(() => client.read())
          .then((count) => events.enqueue({ type: "read", client, n: count }))
          .catch((error) => client.fail(error).close());
      } else {
        client.echo(n)
          .catch((error) => client.fail(error))
          .then(() => client.close());
      }
    }
  }

  function shutdown(): Promise<void> {
    acceptor.stop();
    clients.endBy(performance.now() + grace);
    return finished;
  }

  /** A shutdown without a grace. */
  function abort(): void {
    acceptor.stop();
    clients.endNow();
  }

  if (mode === "events") handleEvents();
  const finished = run();
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  return {
    addr,
    get connections() {
      return clients.size;
    },
    finished,
    shutdown,
    [Symbol.asyncDispose]: shutdown,
  };
}

/**
 * How simultaneous connections are handled. The exchange is the same in all
 * three modes.
 *
 * - `concurrent`: each connection has its own task.
 * - `serial`: each exchange ends before the next connection is accepted.
 * - `events`: accepts and reads become events in one queue, and a single loop
 *   handles them.
 *
 * @example
 * ```ts
 * import { type Mode, serve } from "@diary/echo-server";
 *
 * const mode: Mode = "serial";
 * await using server = serve(Deno.listen({ port: 0 }), { mode });
 * ```
 */
export type Mode = "concurrent" | "serial" | "events";

/**
 * How an exchange ended:
 *
 * - `echoed`: everything that was read was written back.
 * - `eof`: the client closed or half-closed the connection without sending.
 * - `timeout`: the client's deadline passed.
 * - `reset`: the client reset the connection.
 * - `shutdown`: an abort or the end of the grace closed the connection.
 * - `error`: any other failure.
 *
 * @example Counting
 * ```ts
 * import { type Outcome, serve } from "@diary/echo-server";
 *
 * const counts = new Map<Outcome, number>();
 * await using server = serve(Deno.listen({ port: 0 }), {
 *   onExchange: ({ outcome }) =>
 *     counts.set(outcome, (counts.get(outcome) ?? 0) + 1),
 * });
 * ```
 */
export type Outcome =
  | "echoed"
  | "eof"
  | "timeout"
  | "reset"
  | "shutdown"
  | "error";

/**
 * A finished exchange, as {@linkcode ServeOptions.onExchange} receives it.
 *
 * @example
 * ```ts
 * import { type Exchange, serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * const finished = Promise.withResolvers<Exchange>();
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * await using server = serve(listener, { onExchange: finished.resolve });
 *
 * const { port } = server.addr;
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port });
 * await conn.write(new TextEncoder().encode("hoge"));
 * const { remote, outcome, bytes } = await finished.promise;
 * assertEquals(remote, conn.localAddr);
 * assertEquals(outcome, "echoed");
 * assertEquals(bytes, 4);
 * ```
 */
export interface Exchange {
  /** The client's address. */
  remote: Deno.Addr;
  /** How the exchange ended. */
  outcome: Outcome;
  /** How many bytes were echoed. */
  bytes: number;
  /** Milliseconds from the accept until the outcome is known. */
  ms: number;
  /**
   * Why the exchange failed: what a read or a write rejected with. Present only
   * if the outcome is `error`.
   */
  error?: unknown;
}

/**
 * The listener that {@linkcode serve} needs. Any `Deno.Listener` will do, or a
 * listener of your own, for example in memory.
 *
 * Its iterator ends after `close()`. When `next()` rejects, the server tries
 * again with a new iterator. It reports the error, unless the error only means
 * that a client has disconnected, or has an address that is not UTF-8.
 *
 * @example TLS
 * ```ts
 * import { serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * // A key and a certificate for this example, both in one text.
 * const { stdout } = await new Deno.Command("openssl", {
 *   args: [
 *     ..."req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256".split(" "),
 *     ..."-subj /CN=localhost -addext subjectAltName=DNS:localhost".split(" "),
 *     ..."-addext basicConstraints=CA:FALSE -keyout - -out -".split(" "),
 *   ],
 * }).output();
 * const pem = new TextDecoder().decode(stdout);
 *
 * const listener = Deno.listenTls({ port: 0, cert: pem, key: pem });
 * await using server = serve(listener);
 *
 * const { port } = server.addr;
 * const caCerts = [pem];
 * using conn = await Deno.connectTls({ hostname: "localhost", port, caCerts });
 * await conn.write(new TextEncoder().encode("hoge"));
 * const answer = await new Response(conn.readable).text();
 * assertEquals(answer, "Hello World!\r\nhoge");
 * ```
 *
 * @example A Unix socket
 * ```ts
 * import { serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * const path = `${await Deno.makeTempDir()}/echo.sock`;
 * await using server = serve(Deno.listen({ transport: "unix", path }));
 *
 * using conn = await Deno.connect({ transport: "unix", path });
 * await conn.write(new TextEncoder().encode("hoge"));
 * const answer = await new Response(conn.readable).text();
 * assertEquals(answer, "Hello World!\r\nhoge");
 * ```
 */
export interface Listener<A extends Deno.Addr = Deno.Addr> {
  /** The address it listens on. */
  readonly addr: A;
  /** Stops listening, which ends the iteration. */
  close(): void;
  /** Iterates over the connections as they are accepted. */
  [Symbol.asyncIterator](): AsyncIterator<Conn>;
}

/**
 * The connection that {@linkcode serve} needs. Any `Deno.Conn` will do. A
 * connection of your own must behave like one. Above all, `close()` must settle
 * every pending operation: the server waits for them.
 *
 * @example Counting the bytes that are read
 * ```ts
 * import { type Conn, serve } from "@diary/echo-server";
 *
 * let total = 0;
 * function counted(conn: Deno.Conn): Conn {
 *   const read = conn.read.bind(conn);
 *   conn.read = async (into) => {
 *     const n = await read(into);
 *     total += n ?? 0;
 *     return n;
 *   };
 *   return conn;
 * }
 *
 * const listener = Deno.listen({ port: 0 });
 * await using server = serve({
 *   addr: listener.addr,
 *   close: () => listener.close(),
 *   async *[Symbol.asyncIterator]() {
 *     for await (const conn of listener) yield counted(conn);
 *   },
 * });
 * ```
 */
export interface Conn {
  /** The client's address. */
  readonly remoteAddr: Deno.Addr;
  /** Reads what has arrived, at least one byte. Resolves to `null` at EOF. */
  read(into: Uint8Array): Promise<number | null>;
  /** Writes at least one of the bytes, and resolves to how many it wrote. */
  write(bytes: Uint8Array): Promise<number>;
  /** Half-closes: the client gets an EOF, and can still send. */
  closeWrite(): Promise<void>;
  /** Closes both directions. Pending operations reject. */
  close(): void;
  /** Turns TCP keep-alive on or off, if the transport has it. */
  setKeepAlive?(on: boolean): void;
}

/**
 * Options of {@linkcode serve}.
 *
 * @example
 * ```ts
 * import { serve, type ServeOptions } from "@diary/echo-server";
 *
 * const options: ServeOptions = { greeting: "220 ready\r\n", timeout: 5_000 };
 * await using server = serve(Deno.listen({ port: 0 }), options);
 * ```
 */
export interface ServeOptions {
  /**
   * What to send to each client first. A string is sent as UTF-8. If it is
   * empty, nothing is sent.
   *
   * @default {"Hello World!\r\n"}
   */
  greeting?: string | Uint8Array;
  /**
   * The maximum number of bytes to read and echo: a whole number from 1 to
   * 1073741824.
   *
   * @default {1024}
   */
  maxBytes?: number;
  /**
   * The time limit for an exchange, in milliseconds, at most 2147483647. When
   * it expires, the connection is closed. 0 disables it; TCP keep-alive then
   * detects clients that have vanished, on Linux after about two hours (not with
   * TLS, where Deno cannot turn it on).
   *
   * @default {60000}
   */
  timeout?: number;
  /**
   * The maximum number of simultaneous connections: a whole number, at least
   * 1, or `Infinity`. Further clients wait in the kernel's queue. A connection
   * that lingers, for a second at most, still counts.
   *
   * @default {Infinity}
   */
  maxConnections?: number;
  /**
   * How simultaneous connections are handled.
   *
   * @default {"concurrent"}
   */
  mode?: Mode;
  /**
   * How long exchanges may continue after {@linkcode EchoServer.shutdown}, in
   * milliseconds, at most 2147483647. The server then closes what is left, as
   * after an abort.
   *
   * @default {10000}
   */
  grace?: number;
  /**
   * When it is aborted, the server closes every connection and the listener
   * without waiting for exchanges. To let them finish, call
   * {@linkcode EchoServer.shutdown}.
   */
  signal?: AbortSignal;
  /**
   * Called after each exchange. If a callback throws or rejects, the error is
   * printed with `console.error`, and the server goes on.
   */
  onExchange?: (exchange: Exchange) => unknown;
  /**
   * Called when accepting fails, for example because the process is out of
   * file descriptors. The server retries after 5 ms, then doubles the delay up
   * to a second. If the listener can never accept again, the server shuts down.
   *
   * @default {console.error}
   */
  onAcceptError?: (error: unknown) => unknown;
}

/**
 * A running server, as {@linkcode serve} returns it. `await using` shuts it
 * down.
 *
 * @example
 * ```ts
 * import { type EchoServer, serve } from "@diary/echo-server";
 *
 * const server: EchoServer = serve(Deno.listen({ port: 0 }));
 * await server.shutdown();
 * await server.finished; // has already resolved
 * ```
 */
export interface EchoServer<A extends Deno.Addr = Deno.Addr>
  extends AsyncDisposable {
  /** The address of the listener. */
  readonly addr: A;
  /** How many connections are open, including those that linger. */
  readonly connections: number;
  /**
   * Resolves when the listener and all connections are closed: after a
   * shutdown or an abort, or because the listener was closed or has failed
   * permanently, which the server notices at its next accept. Never rejects.
   */
  readonly finished: Promise<void>;
  /**
   * Shuts down gracefully: accepts the clients in the kernel's queue, closes
   * the listener and lets exchanges in progress finish, for at most
   * {@linkcode ServeOptions.grace}.
   *
   * @returns {@linkcode EchoServer.finished}
   */
  shutdown(): Promise<void>;
}

// docs/design.md shows what these are for, and trials of most of them.

/**
 * Pacing: after one accept in `every`, wait for its greeting, up to `ms`.
 * Otherwise a crowd makes Deno poll thousands of connections in vain.
 */
const PACE = { every: 16, ms: 50 };
/**
 * The delay after a failed accept, in ms: `first`, doubling up to `max`. After
 * `permanent` failures in a row that nothing can mend, the server gives up.
 */
const BACK_OFF = { first: 5, max: 1000, permanent: 6 };
/**
 * After a full read (more may follow), or if at least `bytes` were sent (less
 * fits into any window), linger for up to `ms`: time to send a lost packet again.
 */
const LINGER = { ms: 1000, bytes: 512 };
/** How long to read on while a write is stuck, in ms: a round trip or two. */
const UNSTICK_MS = 50;
/** The most bytes to discard: a client may send for ever. */
const DISCARD_BYTES = 1 << 20;
/** Where discarded bytes go. Nobody reads them. */
const DISCARDED = new Uint8Array(1 << 16);
/** Deadlines within this many ms expire together: thousands share a timer. */
const TICK = 20;
/**
 * I/O is idle after `idle` turns of the event loop without progress, or after
 * `max` turns, more in a crowd: Deno polls only some 128 operations per turn.
 */
const TURNS = { idle: 4, max: 64 };
/**
 * At a shutdown, the kernel's queue counts as empty once I/O is idle. With
 * newcomers it never is, so it also counts as empty once accepts have been
 * pending for `ms` in all, or after `length` accepts (Linux holds one more than
 * the backlog). A turn counts for at most `turnMs`, as the process may be
 * stopped, and for nothing if it accepts `many`.
 */
const QUEUE = { length: 4097, ms: 500, turnMs: 50, many: 64 };
/** How long after the grace, in ms, to wait for I/O, and to serve the queue. */
const OVERTIME = { idle: 300, queue: 800 };
/**
 * Buffers in bytes: the `largest` that are cut from a `slab` and reused, and how
 * much is `kept`. Larger ones would hold on to what one large message touched.
 */
const BUFFERS = { largest: 1 << 16, slab: 1 << 20, kept: 1 << 24 };
/** What the kernel says of a listener that can never accept again. */
const FATAL = ["EBADF", "EINVAL", "ENOTSOCK", "EOPNOTSUPP"];
const MODES: readonly Mode[] = ["concurrent", "serial", "events"];
/** The longest delay of a timer. */
const MAX_MS = 2 ** 31 - 1;

/** An event in the queue of the `events` mode. */
type NetEvent = { type: "accept" | "read"; client: Client; n?: number | null };

/** A connection, from the accept to the close. */
class Client {
  /** Its index in {@linkcode Clients}; -1 once it is closed. */
  index = -1;
  readonly #began = performance.now();
  #deadline: number;
  readonly #conn: Conn;
  readonly #remote: Deno.Addr;
  readonly #clients: Clients;
  readonly #isTls: boolean;
  #expired: "timeout" | "shutdown" | undefined;
  #failure: { error: unknown } | undefined;
  #isWriting = false;
  /** Bytes written so far, including the greeting. */
  #sent = 0;
  #buffer: Uint8Array | undefined;
  #received: number | null | undefined;

  constructor(conn: Conn, clients: Clients) {
    this.#conn = conn;
    this.#remote = conn.remoteAddr;
    this.#clients = clients;
    this.#isTls = "handshake" in conn;
    this.#deadline = this.#began + clients.settings.timeout;
    // Without a timeout, nothing else would detect a dead peer.
    if (this.#deadline === Infinity) attempt(() => conn.setKeepAlive?.(true));
  }

  greet(): Promise<void> {
    return this.#write(this.#clients.settings.greeting);
  }

  read(): Promise<number | null> {
    if (this.#expired) throw new Deno.errors.TimedOut(); // nobody sees it
    this.#buffer = this.#clients.buffers.get();
    return this.#conn.read(this.#buffer);
  }

  echo(n: number | null): Promise<void> {
    this.#received = n;
    return this.#write(this.#buffer!, n ?? 0);
  }

  /** Remembers why the exchange failed. */
  fail(error: unknown): this {
    this.#failure = { error };
    return this;
  }

  /** Ends the exchange. The connection may linger. Nothing may be pending. */
  close(): void {
    const { settings, buffers } = this.#clients;
    if (this.#buffer) buffers.put(this.#buffer);
    const exchange = this.#summary();
    // More data may be unread or in flight, in either direction.
    const isLarge = this.#received === settings.maxBytes ||
      this.#sent >= LINGER.bytes;
    if (isLarge && !this.#failure && !this.#expired) this.#linger();
    else this.#release();
    report(settings.onExchange, exchange);
  }

  /** When to expire it; `end` is the limit for all. If stuck, it expires twice. */
  due(end: number): number {
    return this.#expired ? this.#deadline : Math.min(this.#deadline, end);
  }

  /** Its time is up: what is pending rejects, a stuck write a little later. */
  expire(end: number): void {
    this.#expired ??= this.#deadline > end ? "shutdown" : "timeout";
    this.#deadline = Infinity;
    if (this.#isWriting) this.#unstick();
    else attempt(() => this.#conn.close());
  }

  /**
   * Waits until something has been sent, but not for long, and not over TLS: a
   * handshake may never finish.
   */
  async greeted(): Promise<void> {
    const { settings, changed } = this.#clients;
    if (settings.greeting.length === 0 || this.#isTls) return;
    const isGreeted = () => this.#sent > 0 || this.index < 0;
    await changed.until(isGreeted, PACE.ms);
  }

  /** A single write may take only some of the bytes. */
  async #write(bytes: Uint8Array, length = bytes.length): Promise<void> {
    const end = Math.min(length, bytes.length);
    this.#isWriting = true;
    for (let written = 0; written < end;) {
      const n = await this.#conn.write(bytes.subarray(written, end));
      written += n;
      this.#sent += n;
      this.#clients.changed.notify();
    }
    this.#isWriting = false;
  }

  #summary(): Exchange {
    const outcome = this.#outcome();
    const greeting = this.#clients.settings.greeting.length;
    const exchange: Exchange = {
      remote: this.#remote,
      outcome,
      bytes: Math.max(0, this.#sent - greeting),
      ms: performance.now() - this.#began,
    };
    if (outcome === "error") exchange.error = this.#failure!.error;
    return exchange;
  }

  #outcome(): Outcome {
    if (!this.#failure) return this.#received === null ? "eof" : "echoed";
    if (this.#expired) return this.#expired;
    const { error } = this.#failure;
    if (isDisconnect(error)) return "reset";
    // A TLS client closed without a close_notify.
    const isEof = error instanceof Deno.errors.UnexpectedEof;
    return isEof && this.#received === undefined ? "eof" : "error";
  }

  /** Half-closes and waits for the client's EOF. */
  async #linger(): Promise<void> {
    await this.#discard(LINGER.ms, () => this.#conn.closeWrite());
    this.#release();
  }

  /** A write is stuck: reads on, until the connection expires again. */
  async #unstick(): Promise<void> {
    this.#isWriting = false; // so the next time, it is closed
    await this.#discard(UNSTICK_MS);
  }

  /** Discards data that, left unread, would turn the close into a reset. */
  async #discard(ms: number, prepare?: () => Promise<void>): Promise<void> {
    this.#deadline = performance.now() + ms;
    this.#clients.wakeBy(this.#deadline);
    try {
      await prepare?.();
      for (let left = DISCARD_BYTES; left > 0;) {
        left -= await this.#conn.read(DISCARDED) ?? Infinity;
      }
    } catch {
      // The client has gone, or its time is up.
    }
  }

  #release(): void {
    attempt(() => this.#conn.close());
    this.#clients.delete(this);
  }
}

/** The open connections, and one timer for all deadlines. */
class Clients {
  readonly settings: Settings;
  readonly buffers: BufferPool;
  readonly changed = new Condition();
  /** Not a `Set`: with one, memory and p99 grew by a third (64 clients). */
  readonly #all: Client[] = [];
  /** The end of the grace: a deadline that all clients have in common. */
  #end = Infinity;
  #isGraceOver = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wakesAt = Infinity;
  #isAwake = false;

  constructor(settings: Settings) {
    this.settings = settings;
    this.buffers = new BufferPool(settings.maxBytes);
  }

  get size(): number {
    return this.#all.length;
  }

  add(conn: Conn): Client {
    const client = new Client(conn, this);
    client.index = this.#all.push(client) - 1;
    if (this.#isGraceOver) client.expire(this.#end);
    this.wakeBy(client.due(this.#end));
    return client;
  }

  /** Moves the last client into the free slot. */
  delete(client: Client): void {
    const last = this.#all.pop()!;
    if (last !== client) this.#all[client.index] = last;
    last.index = client.index;
    client.index = -1;
    this.changed.notify();
  }

  /** Waits for the last connection, then stops the timer for good. */
  async allClosed(): Promise<void> {
    while (this.size > 0 || this.#isAwake) await this.changed.wait();
    clearTimeout(this.#timer);
    this.#wakesAt = -Infinity;
  }

  /** All clients, including those yet to be accepted, expire by then. */
  endBy(time: number): void {
    this.#end = Math.min(this.#end, time);
    this.wakeBy(this.#end);
  }

  endNow(): void {
    this.#end = Math.min(this.#end, performance.now());
    this.#expireOverdue();
  }

  /** Whether the grace ended at least `ms` ago. */
  isOverFor(ms: number): boolean {
    return performance.now() >= this.#end + ms;
  }

  /** Sets the timer, unless it is already set to an earlier time. */
  wakeBy(time: number): void {
    if (time >= this.#wakesAt) return;
    clearTimeout(this.#timer);
    this.#wakesAt = time;
    const ms = Math.ceil(time - performance.now());
    const delay = Math.min(Math.max(0, ms), MAX_MS);
    this.#timer = setTimeout(() => this.#wake(), delay);
  }

  async #wake(): Promise<void> {
    this.#wakesAt = -Infinity; // no timer is set while this runs
    this.#isAwake = true;
    // Data may have arrived in time, above all if the process was stopped.
    if (performance.now() >= this.#nextDue()) await this.#untilIdle();
    this.#expireOverdue();
    this.#wakesAt = Infinity;
    this.wakeBy(Math.max(this.#nextDue(), performance.now() + TICK));
    this.#isAwake = false;
    this.changed.notify();
  }

  #expireOverdue(): void {
    const now = performance.now();
    this.#isGraceOver ||= now >= this.#end;
    for (const client of this.#all) {
      if (client.due(this.#end) <= now) client.expire(this.#end);
    }
  }

  #nextDue(): number {
    let next = this.#isGraceOver ? Infinity : this.#end;
    for (const client of this.#all) {
      next = Math.min(next, client.due(this.#end));
    }
    return next;
  }

  /** Yields until, for some turns, no exchange has made progress. */
  async #untilIdle(): Promise<void> {
    let left = TURNS.max + this.size / 64;
    for (let idle = 0; idle < TURNS.idle && left > 0; left--) {
      if (this.isOverFor(OVERTIME.idle)) break;
      idle = await this.changed.inNextTurn() ? 0 : idle + 1;
    }
  }
}

/** A condition variable: `while (!holds) await changed.wait()`. */
class Condition {
  #next: PromiseWithResolvers<void> | undefined;
  #count = 0;

  wait(): Promise<void> {
    return (this.#next ??= Promise.withResolvers()).promise;
  }

  notify(): void {
    this.#count++;
    this.#next?.resolve();
    this.#next = undefined;
  }

  /** Waits until a condition holds, but at most `ms`. */
  async until(holds: () => boolean, ms: number): Promise<void> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.notify();
    }, ms);
    while (!holds() && !isLate) await this.wait();
    clearTimeout(timer);
  }

  /** Waits for one turn of the event loop. Says whether it was notified. */
  async inNextTurn(): Promise<boolean> {
    const before = this.#count;
    await nextTurn();
    return this.#count !== before;
  }
}

/** The clients of a listener. A failed accept is retried. */
class Acceptor {
  accepted = 0;
  /** Settles when a shutdown has served the kernel's queue. */
  queueServed: Promise<void> | undefined;
  readonly #listener: Listener;
  readonly #clients: Clients;
  /** How many accepts have begun, except those that took nobody. */
  #attempts = 0;
  #isPending = false;
  #isClosed = false;
  /** How many accepts in a row have failed in the same way: for good, or not. */
  #failures = 0;
  #isPermanent = false;

  constructor(listener: Listener, clients: Clients) {
    this.#listener = listener;
    this.#clients = clients;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client, void> {
    while (!this.#isClosed) {
      try {
        this.#beginAccept();
        for await (const conn of this.#listener) {
          const client = this.#open(conn);
          if (client) yield client;
          if (this.#isClosed) return;
          this.#beginAccept();
        }
        this.#close();
      } catch (error) {
        this.#isPending = false;
        if (!this.#isClosed) await this.#recover(error);
      }
    }
  }

  #beginAccept(): void {
    this.#attempts++;
    this.#isPending = true;
    this.#clients.changed.notify();
  }

  #open(conn: Conn): Client | undefined {
    this.#isPending = false;
    this.#failures = 0;
    this.accepted++;
    try {
      return this.#clients.add(conn);
    } catch (error) { // a connection of your own may have no address
      attempt(() => conn.close());
      report(this.#clients.settings.onAcceptError, error);
      return undefined;
    }
  }

  /** Waits for a connection to end or a shutdown to begin, but not for long. */
  async #recover(error: unknown): Promise<void> {
    // That client has gone, or its address is not UTF-8: accept the next.
    if (isDisconnect(error) || error instanceof Deno.errors.InvalidData) {
      if (this.#attempts % PACE.every === 0) await nextTurn();
      return;
    }
    this.#attempts--; // it took nobody from the kernel's queue
    report(this.#clients.settings.onAcceptError, error);
    const { size } = this.#clients;
    const wasStopping = this.#isStopping;
    // At a shutdown without clients, none will leave and free a descriptor.
    const isPermanent = isFatal(error) || (wasStopping && size === 0);
    if (isPermanent !== this.#isPermanent) this.#failures = 0;
    this.#isPermanent = isPermanent;
    const ms = Math.min(BACK_OFF.first * 2 ** this.#failures, BACK_OFF.max);
    this.#failures++;
    if (isPermanent && this.#failures === BACK_OFF.permanent) {
      return this.#close();
    }
    const hasChanged = () =>
      this.#clients.size < size || this.#isStopping !== wasStopping;
    await this.#clients.changed.until(hasChanged, ms);
  }

  get #isStopping(): boolean {
    return this.queueServed !== undefined;
  }

  /** Accepts the clients in the kernel's queue, then closes the listener. */
  stop(): void {
    this.queueServed ??= this.#serveQueue();
    this.#clients.changed.notify();
  }

  async #serveQueue(): Promise<void> {
    const { changed } = this.#clients;
    const last = this.#attempts + QUEUE.length;
    let mostOpen = 0;
    let turn = { isIdle: false, accepts: 0, ms: 0 };
    let waitedMs = 0;
    for (let idle = 0; idle < TURNS.idle + mostOpen && waitedMs < QUEUE.ms;) {
      if (this.#isClosed || this.#attempts >= last) break;
      if (this.#clients.isOverFor(OVERTIME.queue)) break;
      // One more turn for each client: all are polled in the same turns.
      mostOpen = Math.max(mostOpen, this.#clients.size);
      const { accepts } = turn;
      turn = await this.#turn();
      if (this.#isPending) {
        idle = turn.isIdle ? idle + 1 : 0;
        // The turn after one that accepts many goes to their first operations.
        const isFull = Math.max(accepts, turn.accepts) >= QUEUE.many;
        if (!isFull) waitedMs += Math.min(turn.ms, QUEUE.turnMs);
      } else {
        // Others are served first: nobody in the queue is abandoned.
        while (!this.#isPending && !this.#isClosed) await changed.wait();
        idle = 0;
      }
    }
    this.#close();
  }

  /** Waits for one turn of the event loop. Says what happened in it. */
  async #turn() {
    const [before, attempts] = [performance.now(), this.#attempts];
    const isIdle = !await this.#clients.changed.inNextTurn();
    const ms = performance.now() - before;
    return { isIdle, accepts: this.#attempts - attempts, ms };
  }

  /** Closes the listener, which should end its iterator. */
  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    attempt(() => this.#listener.close());
  }
}

/** Read buffers: small ones are cut from slabs and reused. */
class BufferPool {
  readonly #size: number;
  /** How many to keep: none if they are large. */
  readonly #most: number;
  readonly #free: Uint8Array[] = [];
  #slab = new Uint8Array(0);

  constructor(size: number) {
    this.#size = size;
    this.#most = size > BUFFERS.largest ? 0 : BUFFERS.kept / size;
  }

  get(): Uint8Array {
    if (this.#most === 0) return mapped(this.#size);
    if (this.#free.length > 0) return this.#free.pop()!;
    if (this.#slab.length < this.#size) {
      this.#slab = new Uint8Array(BUFFERS.slab);
    }
    const buffer = this.#slab.subarray(0, this.#size);
    this.#slab = this.#slab.subarray(this.#size);
    return buffer;
  }

  put(buffer: Uint8Array): void {
    if (this.#free.length < this.#most) this.#free.push(buffer);
  }
}

function noop(): void {}

/**
 * A buffer of which only the pages that are used take memory: V8 maps resizable
 * ones from the kernel, and others from a heap that may clear them.
 */
function mapped(size: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(size, { maxByteLength: size }));
}

/** Resolves after the runtime has polled for I/O once more. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Calls a function. What it throws, or rejects with, goes to `onError`. */
function attempt(
  call: () => unknown,
  onError: (error: unknown) => void = noop,
): void {
  try {
    const result = call();
    if (result !== undefined) settle(result, onError);
  } catch (error) {
    onError(error);
  }
}

/** Waits for a result, which may be any promise. */
async function settle(
  result: unknown,
  onError: (error: unknown) => void,
): Promise<void> {
  try {
    await result;
  } catch (error) {
    onError(error);
  }
}

/** Calls a callback. If it throws or rejects, prints the error, if possible. */
function report<T>(callback: (about: T) => unknown, about: T): void {
  const print = (error: unknown) => attempt(() => console.error(error));
  attempt(() => callback(about), print);
}

/** Whether an error says that the client has disconnected. */
function isDisconnect(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.ConnectionAborted ||
    error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.NotConnected;
}

/** Whether an error says that the listener can never accept again. */
function isFatal(error: unknown): boolean {
  return error instanceof Deno.errors.BadResource ||
    FATAL.includes(Object(error).code);
}

type Settings = ReturnType<typeof settingsFrom>;

/** The server owns the listener: it closes it also if an option is wrong. */
function settingsOrClose(
  listener: Listener,
  options: ServeOptions = {},
): Settings {
  check("listener", Symbol.asyncIterator in Object(listener), "a Listener");
  try {
    check("options", Object(options) === options, "an object");
    return settingsFrom(options);
  } catch (error) {
    attempt(() => listener.close());
    throw error;
  }
}

/** Checks the options and fills in the defaults. */
function settingsFrom({
  greeting = "Hello World!\r\n",
  maxBytes = 1024,
  timeout = 60_000,
  grace = 10_000,
  maxConnections = Infinity,
  mode = "concurrent",
  signal = new AbortController().signal,
  onExchange = noop,
  onAcceptError = console.error,
}: ServeOptions) {
  if (typeof greeting === "string") {
    greeting = new TextEncoder().encode(greeting);
  }
  check("greeting", greeting instanceof Uint8Array, "a string or a Uint8Array");
  checkWhole("maxBytes", maxBytes, 1, 2 ** 30);
  checkNumber("timeout", timeout, 0, MAX_MS);
  checkNumber("grace", grace, 0, MAX_MS);
  checkWhole("maxConnections", maxConnections, 1, Infinity);
  check("mode", MODES.includes(mode), `one of ${MODES.join(", ")}`);
  check("signal", signal instanceof AbortSignal, "an AbortSignal");
  check("onExchange", typeof onExchange === "function", "a function");
  check("onAcceptError", typeof onAcceptError === "function", "a function");
  greeting = new Uint8Array(greeting); // a copy
  timeout ||= Infinity;
  const limits = { maxBytes, timeout, grace, maxConnections };
  return { greeting, ...limits, mode, signal, onExchange, onAcceptError };
}

function check(name: string, ok: boolean, what: string): void {
  if (!ok) throw new TypeError(`${name} must be ${what}`);
}

function checkNumber(name: string, n: number, min: number, max: number): void {
  check(name, typeof n === "number", "a number");
  if (n >= min && n <= max) return;
  throw new RangeError(`${name} must be from ${min} to ${max}: ${n}`);
}

function checkWhole(name: string, n: number, min: number, max: number): void {
  checkNumber(name, n, min, max);
  if (Number.isInteger(n) || n === Infinity) return;
  throw new RangeError(`${name} must be a whole number: ${n}`);
}
