/**
 * A one-shot TCP echo service: it greets each client, reads once, echoes what
 * it read and closes.
 *
 * @example A server for your own test, set up and torn down in one line
 * ```ts
 * import { serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve(Deno.listen({ hostname: "127.0.0.1", port: 0 }));
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
 * owns the listener, and closes it at the end.
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
  options: ServeOptions = {},
): EchoServer<A> {
  /** Accepts until the listener is closed, then waits for the last client. */
  async function run(): Promise<void> {
    for await (const conn of acceptor) {
      const client = open(conn);
      if (settings.mode === "concurrent") {
        exchange(client); // its own task: not awaited
      } else if (settings.mode === "serial") {
        await exchange(client); // the only difference: `await`
      } else {
        events!.enqueue({ type: "accept", client });
      }
      // Meanwhile, further clients wait in the kernel's accept queue.
      if (acceptor.attempts % PACE.every === 0) await pace(client);
      while (clients.size >= settings.maxConnections) await changed.wait();
    }
    shutdown(); // the listener may have been closed from outside
    while (clients.size > 0 || yielding > 0) await changed.wait();
    timer.stop();
    settings.signal.removeEventListener("abort", abort);
    events?.close();
  }

  async function exchange(client: Client): Promise<void> {
    let failure: unknown;
    try {
      await greet(client);
      const n = await read(client);
      await echo(client, n);
    } catch (error) {
      failure = error;
    }
    finish(client, failure);
  }

  check("listener", Symbol.asyncIterator in Object(listener), "a Listener");
  const settings = settingsFrom(options);
  const clients = new Clients();
  const buffers = new BufferPool(settings.maxBytes);
  const changed = new Condition();
  const timer = new Timer(wake);
  const acceptor = new Acceptor(listener, changed.notify, acceptFailed);
  let events: ReadableStreamDefaultController<NetEvent> | undefined;
  let graceEnds = Infinity; // until the shutdown begins
  let aborted = false;
  let yielding = 0; // calls of `yieldToIO` in progress

  if (settings.mode === "events") handleEvents();
  const finished = run();
  settings.signal.addEventListener("abort", abort);
  if (settings.signal.aborted) abort();
  return {
    addr: listener.addr,
    get connections() {
      return clients.size;
    },
    finished,
    shutdown,
    [Symbol.asyncDispose]: shutdown,
  };

  /** The `events` mode: one loop handles accepts and reads, one by one. */
  async function handleEvents(): Promise<void> {
    const queue = new ReadableStream<NetEvent>({ start: (c) => events = c });
    for await (const { type, client, n = null } of queue) {
      const fail = (error: unknown) => finish(client, error);
      switch (type) {
        case "accept":
          greet(client)
            .then(() => read(client))
            .then((n) => events!.enqueue({ type: "read", client, n }), fail);
          break;
        case "read":
          echo(client, n).then(() => finish(client), fail);
          break;
      }
    }
  }

  function greet(client: Client): Promise<void> {
    return writeAll(client, settings.greeting);
  }

  function read(client: Client): Promise<number | null> {
    if (client.expired) throw new Deno.errors.TimedOut();
    client.state = "reading";
    client.buffer = buffers.get();
    return client.conn.read(client.buffer);
  }

  function echo(client: Client, n: number | null): Promise<void> {
    client.received = n;
    return writeAll(client, client.buffer!.subarray(0, n ?? 0));
  }

  /** A single write may take only some of the bytes. */
  async function writeAll(client: Client, bytes: Uint8Array): Promise<void> {
    client.state = "writing";
    for (let written = 0; written < bytes.length;) {
      const n = await client.conn.write(bytes.subarray(written));
      written += n;
      client.sent += n;
      changed.notify();
    }
  }

  /** Every exchange ends here, exactly once, with no operation pending. */
  function finish(client: Client, failure?: unknown): void {
    if (client.buffer) buffers.put(client.buffer);
    const outcome = outcomeOf(client, failure);
    const ms = performance.now() - client.began;
    const bytes = Math.max(0, client.sent - settings.greeting.length);
    // More data may be unread or in flight, in either direction.
    const isLarge = client.received === settings.maxBytes ||
      client.sent >= LINGER.bytes;
    if (isLarge && outcome === "echoed" && !client.expired) {
      drain(client, LINGER.ms).then(() => close(client));
    } else close(client);
    const { remoteAddr: remote } = client.conn;
    const error = outcome === "error" ? { error: failure } : {};
    report(settings.onExchange, { remote, outcome, bytes, ms, ...error });
  }

  /** Discards data that, left unread, would turn the close into a reset. */
  async function drain(client: Client, ms: number): Promise<void> {
    client.state = "draining";
    client.deadline = performance.now() + ms;
    timer.wakeBy(client.deadline);
    try {
      if (!client.expired) await client.conn.closeWrite();
      for (let left = DRAIN.bytes; left > 0;) {
        left -= await client.conn.read(DISCARDED) ?? Infinity;
      }
    } catch {
      // The client has gone, or its time is up.
    }
  }

  function close(client: Client): void {
    client.state = "closed";
    attempt(() => client.conn.close());
    clients.delete(client);
    changed.notify();
  }

  function open(conn: Conn): Client {
    const client = new Client(conn);
    client.deadline = client.began + settings.timeout;
    clients.add(client);
    timer.wakeBy(client.deadline);
    // Without a timeout, nothing else would detect a dead peer.
    if (client.deadline === Infinity) attempt(() => conn.setKeepAlive?.(true));
    if (aborted) expire(client);
    return client;
  }

  /** Closes it, so what is pending rejects. If a write is stuck, drains first. */
  function expire(client: Client): void {
    client.expired ??= aborted ? "shutdown" : "timeout";
    client.deadline = Infinity;
    if (client.state === "writing") drain(client, DRAIN.ms);
    else attempt(() => client.conn.close());
  }

  /** Runs when a deadline has passed: a client's, the grace's or `until`'s. */
  async function wake(): Promise<void> {
    // Data may have arrived in time, above all if the process was stopped.
    if (performance.now() >= nextDeadline()) await yieldToIO(TURNS.idle);
    const now = performance.now();
    if (now >= graceEnds && !aborted) abort();
    for (const client of clients.overdue(now)) expire(client);
    changed.notify();
    timer.wakeBy(Math.max(nextDeadline(), now + TICK));
  }

  function nextDeadline(): number {
    return Math.min(clients.nextDeadline(), aborted ? Infinity : graceEnds);
  }

  /** Yields until, for some turns, no exchange has made progress. */
  async function yieldToIO(turns: number): Promise<void> {
    yielding++;
    let left = TURNS.max + clients.size / 64;
    for (let idle = 0; idle < turns && left > 0; left--) {
      const before = changed.count;
      await nextTurn();
      idle = changed.count === before ? idle + 1 : 0;
    }
    yielding--;
    changed.notify();
  }

  /** Waits until a condition holds, but at most `ms`. */
  async function until(holds: () => boolean, ms: number): Promise<void> {
    const limit = performance.now() + ms;
    while (!holds() && performance.now() < limit) {
      timer.wakeBy(limit);
      await changed.wait();
    }
  }

  /** Pacing. Does not wait for TLS clients: a handshake may never finish. */
  async function pace(client: Client): Promise<void> {
    if (settings.greeting.length === 0 || "handshake" in client.conn) return;
    await until(() => client.sent > 0 || client.state === "closed", PACE.ms);
  }

  /** Waits up to `ms` for a connection to end. If hopeless, stops accepting. */
  async function acceptFailed(error: unknown, ms: number): Promise<void> {
    report(settings.onAcceptError, error);
    const { size } = clients;
    const before = graceEnds;
    const isHopeless = isFatal(error) || (before < Infinity && size === 0);
    if (isHopeless && ms >= BACK_OFF.last) return acceptor.close();
    await until(() => clients.size < size || graceEnds !== before, ms);
  }

  function shutdown(): Promise<void> {
    if (graceEnds === Infinity) drainQueue();
    graceEnds = Math.min(graceEnds, performance.now() + settings.grace);
    timer.wakeBy(graceEnds);
    changed.notify();
    return finished;
  }

  /** Accepts the clients in the kernel's queue, then closes the listener. */
  async function drainQueue(): Promise<void> {
    const enough = acceptor.attempts + BACKLOG;
    while (!acceptor.done && acceptor.attempts < enough) {
      const { attempts, pending } = acceptor;
      await (pending ? yieldToIO(TURNS.idle + clients.size) : changed.wait());
      // If the same accept is still pending, the queue is empty.
      if (acceptor.pending && acceptor.attempts === attempts) break;
    }
    acceptor.close();
  }

  /** Expires every client, including those yet to be accepted. */
  function abort(): void {
    aborted = true;
    for (const client of clients.overdue(Infinity)) expire(client);
    shutdown();
  }
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
  /** What went wrong, if the outcome is `error`. */
  error?: unknown;
}

/**
 * The listener that {@linkcode serve} needs. Any `Deno.Listener` will do, or a
 * listener of your own, for example in memory.
 *
 * Its iterator ends after `close()`. When `next()` rejects, the server tries
 * again with a new iterator. It reports the error, unless the error only means
 * that a client has disconnected.
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
 * const certs = { hostname: "localhost", caCerts: [pem] };
 * using conn = await Deno.connectTls({ port, ...certs });
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
   * it is over, the connection is closed. 0 disables it; TCP keep-alive then
   * detects clients that have vanished, on Linux after about two hours (not with
   * TLS, where Deno cannot turn it on).
   *
   * @default {60000}
   */
  timeout?: number;
  /**
   * The maximum number of simultaneous connections: a whole number, at least
   * 1, or `Infinity`. Further clients wait in the kernel's queue. A connection
   * that is being drained, for a second at most, still counts.
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
  /** How many connections are open, including those that are being drained. */
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

/** Pacing: after one accept in `every`, wait up to `ms` for its greeting. */
const PACE = { every: 16, ms: 50 };
/** Back-off in ms. If accepting is hopeless, give up at `last`. */
const BACK_OFF = { first: 5, last: 160, max: 1000 };
/** Linger for `ms` after a full read, or if at least `bytes` were sent. */
const LINGER = { bytes: 512, ms: 1000 };
/** Limits of draining: `ms` if a write is stuck, and `bytes`. */
const DRAIN = { ms: 50, bytes: 1 << 20 };
/** Where discarded bytes go. Nobody reads them. */
const DISCARDED = new Uint8Array(1 << 16);
/** Deadlines within this many milliseconds expire together. */
const TICK = 20;
/** Turns of the event loop: each polls some 128 operations of the process. */
const TURNS = { idle: 4, max: 64 };
/** The most clients that a shutdown accepts from the kernel's queue. */
const BACKLOG = 4096;
const MODES: readonly Mode[] = ["concurrent", "serial", "events"];
/** The longest delay of a timer. */
const MAX_MS = 2 ** 31 - 1;

/** A connection and the state of its exchange. */
class Client {
  readonly began = performance.now();
  deadline = Infinity;
  state: "new" | "writing" | "reading" | "draining" | "closed" = "new";
  expired?: "timeout" | "shutdown";
  buffer?: Uint8Array;
  received?: number | null;
  /** Bytes written so far, including the greeting. */
  sent = 0;
  /** Its index in {@linkcode Clients}. */
  index = -1;

  constructor(readonly conn: Conn) {}
}

/** An event in the queue of the `events` mode. */
type NetEvent = { type: "accept" | "read"; client: Client; n?: number | null };

/** The open connections. A `Set` doubled the memory under load. */
class Clients {
  readonly #all: Client[] = [];

  get size(): number {
    return this.#all.length;
  }

  add(client: Client): void {
    client.index = this.#all.push(client) - 1;
  }

  /** Moves the last client into the free slot. */
  delete(client: Client): void {
    const last = this.#all.pop()!;
    if (last !== client) this.#all[client.index] = last;
    last.index = client.index;
  }

  overdue(now: number): Client[] {
    return this.#all.filter(({ deadline }) => deadline <= now);
  }

  nextDeadline(): number {
    let next = Infinity;
    for (const { deadline } of this.#all) next = Math.min(next, deadline);
    return next;
  }
}

/** A condition variable: `while (!holds) await changed.wait()`. */
class Condition {
  #next?: PromiseWithResolvers<void>;
  /** How many notifications there have been. */
  count = 0;

  wait(): Promise<void> {
    return (this.#next ??= Promise.withResolvers()).promise;
  }

  readonly notify = (): void => {
    this.count++;
    this.#next?.resolve();
    this.#next = undefined;
  };
}

/** One timer for all deadlines. */
class Timer {
  #id?: ReturnType<typeof setTimeout>;
  #time = Infinity;

  constructor(readonly wake: () => void) {
    // Deno loads its timers on first use, which may run microtasks: do it here.
    clearTimeout(undefined);
  }

  /** Sets the timer, unless it is already set to an earlier time. */
  wakeBy(time: number): void {
    if (time >= this.#time) return;
    clearTimeout(this.#id);
    this.#time = time;
    const ms = Math.max(0, Math.ceil(time - performance.now()));
    this.#id = setTimeout(() => {
      this.#time = Infinity;
      this.wake();
    }, ms);
  }

  /** Stops it for good. */
  stop(): void {
    clearTimeout(this.#id);
    this.#time = -Infinity;
  }
}

/** The connections of a listener. A failed accept is retried. */
class Acceptor implements AsyncIterableIterator<Conn> {
  /** How many accepts have been started. */
  attempts = 0;
  pending = false;
  done = false;
  /** The next delays, after a fatal failure and after any other. */
  readonly #backOff = { fatal: BACK_OFF.first, other: BACK_OFF.first };
  #conns?: AsyncIterator<Conn>;

  constructor(
    readonly listener: Listener,
    readonly onPending: () => void,
    readonly onError: (error: unknown, ms: number) => Promise<void>,
  ) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Conn>> {
    while (!this.done) {
      this.attempts++;
      this.pending = true;
      this.onPending();
      try {
        this.#conns ??= this.listener[Symbol.asyncIterator]();
        const result = await this.#conns.next();
        this.pending = false;
        if (result.done) this.close();
        this.#backOff.fatal = this.#backOff.other = BACK_OFF.first;
        return result;
      } catch (error) {
        this.pending = false;
        if (!this.done) await this.#recover(error);
      }
    }
    return { done: true, value: undefined };
  }

  /** Closes the listener. Its iterator should end; if not, this one does. */
  close(): void {
    if (!this.done) attempt(() => this.listener.close());
    this.done = true;
  }

  async #recover(error: unknown): Promise<void> {
    this.#conns = undefined;
    // That client has gone, or its address is not UTF-8: accept the next.
    if (isDisconnect(error) || error instanceof Deno.errors.InvalidData) {
      if (this.attempts % PACE.every === 0) await nextTurn();
      return;
    }
    const kind = isFatal(error) ? "fatal" : "other";
    if (kind === "other") this.#backOff.fatal = BACK_OFF.first;
    await this.onError(error, this.#backOff[kind]);
    this.#backOff[kind] = Math.min(2 * this.#backOff[kind], BACK_OFF.max);
  }
}

/** Read buffers, cut from slabs and reused. */
class BufferPool {
  readonly #free: Uint8Array[] = [];
  #slab = new Uint8Array(0);

  constructor(readonly size: number) {}

  get(): Uint8Array {
    if (this.#free.length > 0) return this.#free.pop()!;
    if (this.#slab.length < this.size) {
      // So large that the kernel allocates only the pages that are used.
      this.#slab = new Uint8Array(Math.max(this.size, 1 << 20));
    }
    const buffer = this.#slab.subarray(0, this.size);
    this.#slab = this.#slab.subarray(this.size);
    return buffer;
  }

  put(buffer: Uint8Array): void {
    if (this.#free.length * this.size < 1 << 24) this.#free.push(buffer);
  }
}

function noop(): void {}

/** Resolves after the runtime has polled for I/O once more. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Ignores what the call throws: the connection may already be closed. */
function attempt(call: () => void): void {
  try {
    call();
  } catch {
    // Nothing is left to do.
  }
}

/** Calls a callback. If it throws or rejects, prints the error, if possible. */
function report<T>(callback: (about: T) => unknown, about: T): void {
  let result: unknown;
  try {
    result = callback(about);
  } catch (error) {
    result = Promise.reject(error);
  }
  if (result) Promise.resolve(result).catch(console.error).catch(noop);
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
    /^(EBADF|EINVAL|ENOTSOCK|EOPNOTSUPP)$/.test(Object(error).code);
}

function outcomeOf({ received, expired }: Client, failure?: unknown): Outcome {
  if (received === null) return "eof";
  if (failure === undefined && received !== undefined) return "echoed";
  if (expired) return expired;
  if (isDisconnect(failure)) return "reset";
  // A TLS client closed without a close_notify.
  if (failure instanceof Deno.errors.UnexpectedEof) return "eof";
  return "error";
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
