/**
 * A one-shot TCP echo service: it greets each client, reads once, echoes what
 * it read and closes.
 *
 * @example A server for a test of your own, set up and torn down in one line
 * ```ts
 * import { serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve(Deno.listen({ hostname: "127.0.0.1", port: 0 }));
 *
 * const { port } = server.addr as Deno.NetAddr;
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port });
 * await conn.write(new TextEncoder().encode("hoge\r\n"));
 * const answer = await new Response(conn.readable).text();
 * assertEquals(answer, "Hello World!\r\nhoge\r\n");
 * ```
 *
 * @module
 */

/**
 * Serves on a listener until it is told to stop, and returns at once.
 *
 * The listener may be of any kind: TCP, TLS, Unix, or one of your own. The
 * server closes it in the end. If crowds may come, give `Deno.listen` a
 * `tcpBacklog` of 4096: they wait there, in order.
 *
 * @param listener Where the connections come from.
 * @param options What to change from the defaults.
 * @returns The running server.
 * @throws {TypeError} If an option is of the wrong type.
 * @throws {RangeError} If a number among the options is out of its range.
 *
 * @example TCP
 * ```ts
 * import { serve } from "@diary/echo-server";
 *
 * await using server = serve(Deno.listen({ port: 0, tcpBacklog: 4096 }), {
 *   maxConnections: 1000,
 *   onExchange: ({ outcome, ms }) => console.log(outcome, ms),
 * });
 * ```
 */
export function serve(
  listener: Listener,
  options: ServeOptions = {},
): EchoServer {
  return new Server(listener, settingsFrom(options));
}

class Server implements EchoServer {
  /** Takes connections until the listener is closed, whatever else fails. */
  async #accept(): Promise<void> {
    while (!this.#closed) {
      try {
        for await (const conn of this.#listener) {
          const connection = this.#open(conn);
          switch (this.#settings.mode) {
            case "concurrent":
              this.#exchange(connection); // a task of its own: not awaited
              break;
            case "serial":
              await this.#hold(this.#exchange(connection)); // one await apart
              break;
            case "events":
              this.#events!.enqueue({ type: "accept", connection });
              break;
          }
          // Whoever is not taken yet waits in the kernel's queue, in order.
          if (this.#crowded(connection)) await this.#untilGreeted(connection);
          if (this.#full()) await this.#untilEnd();
        }
        this.#closed = true;
      } catch (error) {
        await this.#acceptFailed(error);
      }
    }
    this.#accepting = false;
    this.#settle();
  }

  async #exchange(connection: Connection): Promise<void> {
    try {
      await this.#greet(connection);
      const n = await this.#read(connection);
      await this.#echo(connection, n);
      await this.#close(connection, n);
    } catch (error) {
      this.#fail(connection, error);
    }
  }

  /** The mode `events`: accepts and reads are answered one by one. */
  async #answer(events: ReadableStream<Event>): Promise<void> {
    for await (const { type, connection, n = null } of events) {
      const fail = (error: unknown) => this.#fail(connection, error);
      switch (type) {
        case "accept":
          this.#greet(connection)
            .then(() => this.#read(connection))
            .then((n) => this.#events!.enqueue({ type: "read", connection, n }))
            .catch(fail);
          break;
        case "read":
          this.#echo(connection, n)
            .then(() => this.#close(connection, n))
            .catch(fail);
          break;
      }
    }
  }

  #greet(connection: Connection): Promise<void> {
    return this.#write(connection, this.#settings.greeting);
  }

  #read(connection: Connection): Promise<number | null> {
    connection.busy = "read";
    connection.buffer = this.#buffers.take();
    return connection.conn.read(connection.buffer);
  }

  #echo(connection: Connection, n: number | null): Promise<void> {
    return this.#write(connection, connection.buffer!.subarray(0, n ?? 0));
  }

  #close(connection: Connection, n: number | null): Promise<void> | void {
    connection.outcome ??= n === null ? "eof" : "echoed";
    this.#buffers.give(connection);
    // A full buffer, or much at once: something may lie unread, or yet come.
    if (n !== null && n >= Math.min(this.#settings.maxBytes, LINGER.from)) {
      return this.#linger(connection, LINGER.echoed);
    }
    this.#end(connection);
  }

  #fail(connection: Connection, error: unknown): void {
    connection.outcome ??= outcomeOf(error);
    this.#end(connection);
    this.#buffers.give(connection);
  }

  /** Writes all of the bytes: one write may take only a part of them. */
  async #write(connection: Connection, bytes: Uint8Array): Promise<void> {
    connection.busy = "write";
    for (let sent = 0; sent < bytes.length;) {
      const rest = sent === 0 ? bytes : bytes.subarray(sent);
      const n = await connection.conn.write(rest);
      sent += n;
      connection.sent += n;
      connection.onSent();
    }
  }

  readonly addr: Deno.Addr;
  readonly finished: Promise<void>;
  readonly #finish: () => void;
  readonly #listener: Listener;
  readonly #settings: Settings;
  readonly #buffers: Buffers;
  readonly #connections = new Connections();
  #events?: ReadableStreamDefaultController<Event>;
  readonly #abort = () => this.#closeAll();

  #accepted = 0;
  #backOff = BACK_OFF.first;
  /** What the accept loop waits for, if not for the next connection. */
  #held?: Promise<void>;
  #heldUntil = Infinity;
  #goOn = nothing;
  #onEnd = nothing;

  /** `shutdown()` was called. */
  #stopping = false;
  /** Everybody's time is up. */
  #aborted = false;
  /** The listener is closed. */
  #closed = false;
  /** The accept loop has not ended yet. */
  #accepting = true;
  #alarm?: ReturnType<typeof setTimeout>;
  #alarmAt = Infinity;

  constructor(listener: Listener, settings: Settings) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.finished = promise;
    this.#finish = resolve;
    this.addr = listener.addr;
    this.#listener = listener;
    this.#settings = settings;
    this.#buffers = new Buffers(settings.maxBytes);
    if (settings.mode === "events") {
      this.#answer(
        new ReadableStream({ start: (queue) => void (this.#events = queue) }),
      );
    }
    this.#accept();
    settings.signal?.addEventListener("abort", this.#abort);
    if (settings.signal?.aborted) this.#abort();
  }

  #open(conn: Deno.Conn): Connection {
    const connection = new Connection(conn);
    this.#connections.add(connection);
    connection.due = this.#aborted
      ? connection.began
      : connection.began + this.#settings.timeout;
    this.#wakeAt(connection.due);
    this.#accepted++;
    this.#backOff = BACK_OFF.first;
    return connection;
  }

  /** Closes a connection, once, and tells whoever waits for that. */
  #end(connection: Connection): void {
    if (!this.#connections.delete(connection)) return;
    closeQuietly(connection.conn);
    connection.onSent();
    this.#onEnd();
    const { onExchange, greeting } = this.#settings;
    if (onExchange) {
      tell(onExchange, {
        remote: connection.conn.remoteAddr,
        outcome: connection.outcome!,
        bytes: Math.max(0, connection.sent - greeting.length),
        ms: performance.now() - connection.began,
      });
    }
    this.#settle();
  }

  /** Ends an exchange from outside: its time is up. */
  #cut(connection: Connection): void {
    connection.outcome ??= this.#aborted ? "shutdown" : "timeout";
    if (connection.busy === "write") this.#linger(connection, LINGER.cut);
    else this.#end(connection);
  }

  /** Drains what lies unread, which would turn the close into a reset. */
  async #linger(connection: Connection, ms: number): Promise<void> {
    const { conn, outcome } = connection;
    connection.busy = "linger";
    connection.due = performance.now() + ms;
    this.#wakeAt(connection.due);
    try {
      if (outcome === "echoed") await conn.closeWrite();
      for (let left = LINGER.bytes; left > 0;) {
        const n = await conn.read(WASTE);
        if (n === null) break;
        left -= n;
      }
    } catch {
      // The client is gone, or its time is up.
    }
    this.#end(connection);
  }

  /** One timer serves all: it is set to the first moment that is of interest. */
  #wakeAt(time: number): void {
    if (time >= this.#alarmAt) return;
    clearTimeout(this.#alarm);
    this.#alarmAt = time;
    this.#alarm = setTimeout(() => this.#wake(), time - performance.now());
  }

  #wake(): void {
    const now = performance.now();
    this.#alarmAt = Infinity;
    for (const connection of this.#connections.due(now)) this.#cut(connection);
    if (this.#heldUntil <= now) {
      this.#heldUntil = Infinity;
      this.#goOn();
    }
    const next = Math.min(this.#connections.nextDue(), this.#heldUntil);
    this.#wakeAt(Math.max(next, now + TICK));
  }

  #crowded(connection: Connection): boolean {
    return this.#accepted % CROWD === 0 && connection.sent === 0 &&
      this.#settings.greeting.length > 0;
  }

  #full(): boolean {
    return this.#connections.size >= this.#settings.maxConnections;
  }

  #untilGreeted(connection: Connection): Promise<void> {
    return this.#pause((goOn) => connection.onSent = goOn, CROWD_WAIT);
  }

  #untilEnd(ms?: number): Promise<void> {
    return this.#pause((goOn) => this.#onEnd = goOn, ms);
  }

  /** Keeps the accept loop waiting until `goOn` is called, at most for `ms`. */
  #pause(until: (goOn: () => void) => void, ms = Infinity): Promise<void> {
    this.#heldUntil = performance.now() + ms;
    this.#wakeAt(this.#heldUntil);
    return this.#hold(new Promise((goOn) => until(this.#goOn = goOn)));
  }

  async #hold(until: Promise<void>): Promise<void> {
    this.#held = until;
    await until;
    this.#held = undefined;
    this.#heldUntil = Infinity;
  }

  async #acceptFailed(error: unknown): Promise<void> {
    if (isGone(error)) return; // that client did not wait: on to the next
    if (this.#settings.onAcceptError) tell(this.#settings.onAcceptError, error);
    await this.#untilEnd(this.#backOff);
    this.#backOff = Math.min(2 * this.#backOff, BACK_OFF.most);
  }

  shutdown(): Promise<void> {
    if (!this.#stopping && !this.#closed) {
      this.#stopping = true;
      this.#closeListener();
    }
    return this.finished;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }

  /** Empties the kernel's queue first: closing would reset who waits there. */
  async #closeListener(): Promise<void> {
    const most = this.#accepted + BACKLOG;
    let accepted: number;
    do {
      accepted = this.#accepted;
      await this.#held;
      // A turn serves some 128 operations: the accept must have had its own.
      const turns = 2 + this.#connections.size / 64;
      for (let i = 0; i < turns; i++) await turn();
    } while (
      this.#accepted < most &&
      (this.#accepted > accepted || (this.#held && this.#connections.size > 0))
    );
    this.#closed = true;
    closeQuietly(this.#listener);
  }

  /** From now on everybody's time is up. */
  #closeAll(): void {
    this.#aborted = true;
    this.#connections.allDue();
    this.#wake();
    this.shutdown();
  }

  #settle(): void {
    if (this.#accepting || this.#connections.size > 0) return;
    clearTimeout(this.#alarm);
    this.#settings.signal?.removeEventListener("abort", this.#abort);
    this.#events?.close();
    this.#finish();
  }
}

/**
 * How the connections share the program, after the diary's three servers:
 *
 * - `concurrent`: each connection has a task of its own;
 * - `serial`: one exchange is finished before the next connection is taken;
 * - `events`: accepts and reads become events in one queue, and a single loop
 *   answers them.
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
 * - `echoed`: all that was read was written back;
 * - `eof`: the client ended its side without sending anything;
 * - `timeout`: its time ran out;
 * - `reset`: the client broke the connection off;
 * - `shutdown`: the server was told to close it;
 * - `error`: anything else that failed.
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
 * A finished exchange, as {@linkcode ServeOptions.onExchange} is told of it.
 *
 * @example
 * ```ts
 * import { type Exchange, serve } from "@diary/echo-server";
 * import { assertEquals } from "@std/assert";
 *
 * const told = Promise.withResolvers<Exchange>();
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * await using server = serve(listener, { onExchange: told.resolve });
 *
 * const { port } = listener.addr;
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port });
 * await conn.write(new TextEncoder().encode("hoge"));
 * const { remote, outcome, bytes } = await told.promise;
 * assertEquals(remote, conn.localAddr);
 * assertEquals(outcome, "echoed");
 * assertEquals(bytes, 4);
 * ```
 */
export interface Exchange {
  /** The client's address. */
  remote: Deno.Addr;
  /** How it ended. */
  outcome: Outcome;
  /** How many bytes were echoed. */
  bytes: number;
  /** How long it took from accept to close, in milliseconds. */
  ms: number;
}

/**
 * What {@linkcode serve} needs of a listener. Any `Deno.Listener` has it.
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
 * const { port } = listener.addr;
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
 * const listener = Deno.listen({ transport: "unix", path });
 * await using server = serve(listener);
 *
 * using conn = await Deno.connect({ transport: "unix", path });
 * await conn.write(new TextEncoder().encode("hoge"));
 * const answer = await new Response(conn.readable).text();
 * assertEquals(answer, "Hello World!\r\nhoge");
 * ```
 */
export type Listener = Pick<
  Deno.Listener,
  typeof Symbol.asyncIterator | "addr" | "close"
>;

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
   * What each client is sent first. A string is sent as UTF-8; an empty one is
   * not sent at all.
   *
   * @default {"Hello World!\r\n"}
   */
  greeting?: string | Uint8Array;
  /**
   * The most bytes that the one read takes: a whole number from 1 to
   * 1073741824.
   *
   * @default {1024}
   */
  maxBytes?: number;
  /**
   * How long a whole exchange may take, in milliseconds, at most 2147483647.
   * Then the connection is closed. 0 is never.
   *
   * @default {60000}
   */
  timeout?: number;
  /**
   * The most connections that are held at once, a whole number from 1. More
   * wait in the kernel's queue.
   *
   * @default {Infinity}
   */
  maxConnections?: number;
  /**
   * How the connections share the program.
   *
   * @default {"concurrent"}
   */
  mode?: Mode;
  /**
   * Closes the server and every connection at once when it is aborted.
   * To let exchanges finish, call {@linkcode EchoServer.shutdown} first.
   */
  signal?: AbortSignal;
  /**
   * Is told of each finished exchange. What a callback throws does not harm
   * the service: it is printed with `console.error`, as `Deno.serve` prints
   * what its handler throws.
   */
  onExchange?: (exchange: Exchange) => unknown;
  /**
   * Is told why a connection could not be accepted, for want of descriptors for
   * example. The server tries again by itself.
   */
  onAcceptError?: (error: unknown) => unknown;
}

/**
 * A running server, as {@linkcode serve} returns it. `await using` stops it
 * with {@linkcode EchoServer.shutdown}.
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
export interface EchoServer extends AsyncDisposable {
  /** The address that the listener listens on. */
  readonly addr: Deno.Addr;
  /** Resolves when the listener and all connections are closed. Never rejects. */
  readonly finished: Promise<void>;
  /**
   * Stops the server gracefully: takes the clients that already wait in the
   * kernel's queue, closes the listener and lets every exchange finish.
   *
   * @returns {@linkcode EchoServer.finished}
   */
  shutdown(): Promise<void>;
}

/** Milliseconds until the next try after a failed accept: first, and at most. */
const BACK_OFF = { first: 5, most: 1000 };
/** One in so many connections must be greeted before the next is accepted ... */
const CROWD = 16;
/** ... unless its client keeps it waiting for so many milliseconds. */
const CROWD_WAIT = 50;
/** What a client sent too much is drained: from such a read on, for so long. */
const LINGER = { from: 1024, echoed: 1000, cut: 50, bytes: 1 << 20 };
/** Connections whose time is up within so many milliseconds end together. */
const TICK = 20;
const MODES: readonly Mode[] = ["concurrent", "serial", "events"];
const MAX_BYTES = 2 ** 30;
/** The longest that a timer can wait. */
const MAX_TIMEOUT = 2 ** 31 - 1;
/** The most clients in the kernel's queue that a shutdown still takes. */
const BACKLOG = 4096;

/** A connection and how far its exchange has come. */
class Connection {
  readonly began = performance.now();
  /** When its time is up. */
  due = Infinity;
  busy: "write" | "read" | "linger" = "write";
  buffer?: Uint8Array;
  /** Bytes written so far, the greeting's among them. */
  sent = 0;
  onSent = nothing;
  outcome?: Outcome;
  /** Where it stands among the {@linkcode Connections}. */
  place = -1;

  constructor(readonly conn: Deno.Conn) {}
}

/** What the loop of the mode `events` takes from its queue. */
interface Event {
  type: "accept" | "read";
  connection: Connection;
  n?: number | null;
}

/** The open connections. A `Set` took twice the memory of this under load. */
class Connections {
  readonly #all: Connection[] = [];

  get size(): number {
    return this.#all.length;
  }

  add(connection: Connection): void {
    connection.place = this.#all.push(connection) - 1;
  }

  /** Says whether it was there. The last one moves to its place. */
  delete(connection: Connection): boolean {
    const { place } = connection;
    if (this.#all[place] !== connection) return false;
    const last = this.#all.pop()!;
    if (last !== connection) {
      this.#all[place] = last;
      last.place = place;
    }
    return true;
  }

  due(now: number): Connection[] {
    return this.#all.filter((connection) => connection.due <= now);
  }

  nextDue(): number {
    let next = Infinity;
    for (const { due } of this.#all) next = Math.min(next, due);
    return next;
  }

  allDue(): void {
    for (const connection of this.#all) connection.due = 0;
  }
}

/** Buffers for the reads, cut from slabs and used again. */
class Buffers {
  readonly #size: number;
  readonly #spare: Uint8Array[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  take(): Uint8Array {
    if (this.#spare.length === 0) {
      // So large that the kernel gives it memory only where it is read into.
      const slab = new Uint8Array(Math.max(this.#size, 1 << 20));
      for (let end = slab.length; end >= this.#size; end -= this.#size) {
        this.#spare.push(slab.subarray(end - this.#size, end));
      }
    }
    return this.#spare.pop()!;
  }

  give(connection: Connection): void {
    if (connection.buffer) this.#spare.push(connection.buffer);
  }
}

/** Where drained bytes go. Nobody looks at them. */
const WASTE = new Uint8Array(1 << 16);

function nothing(): void {}

/** Resolves after the runtime has looked for I/O once more. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

function closeQuietly(closer: { close(): void }): void {
  try {
    closer.close();
  } catch {
    // It is closed already.
  }
}

function tell<T>(callback: (about: T) => unknown, about: T): void {
  try {
    const answer = callback(about);
    if (answer instanceof Promise) answer.catch(console.error);
  } catch (error) {
    console.error(error);
  }
}

/** Whether an error says that the client broke the connection off. */
function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.ConnectionAborted ||
    error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.NotConnected;
}

function outcomeOf(error: unknown): Outcome {
  if (isGone(error)) return "reset";
  // A TLS client that ends without saying so.
  if (error instanceof Deno.errors.UnexpectedEof) return "eof";
  return "error";
}

interface Settings {
  greeting: Uint8Array;
  maxBytes: number;
  timeout: number;
  maxConnections: number;
  mode: Mode;
  signal?: AbortSignal;
  onExchange?: (exchange: Exchange) => unknown;
  onAcceptError?: (error: unknown) => unknown;
}

/** Checks the options and fills in the defaults. */
function settingsFrom(options: ServeOptions): Settings {
  const {
    greeting = "Hello World!\r\n",
    maxBytes = 1024,
    timeout = 60_000,
    maxConnections = Infinity,
    mode = "concurrent",
    signal,
    onExchange,
    onAcceptError,
  } = options;
  if (typeof greeting !== "string" && !(greeting instanceof Uint8Array)) {
    throw new TypeError("greeting must be a string or a Uint8Array");
  }
  checkNumber("maxBytes", maxBytes, 1, MAX_BYTES);
  checkWhole("maxBytes", maxBytes);
  checkNumber("timeout", timeout, 0, MAX_TIMEOUT);
  checkNumber("maxConnections", maxConnections, 1, Infinity);
  if (maxConnections < Infinity) checkWhole("maxConnections", maxConnections);
  if (!MODES.includes(mode)) {
    throw new TypeError(`mode must be one of ${MODES.join(", ")}`);
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new TypeError("signal must be an AbortSignal");
  }
  checkCallback("onExchange", onExchange);
  checkCallback("onAcceptError", onAcceptError);
  return {
    greeting: typeof greeting === "string"
      ? new TextEncoder().encode(greeting)
      : greeting.slice(),
    maxBytes,
    timeout: timeout === 0 ? Infinity : timeout,
    maxConnections,
    mode,
    signal,
    onExchange,
    onAcceptError,
  };
}

function checkNumber(name: string, value: number, min: number, max: number) {
  if (typeof value !== "number") {
    throw new TypeError(`${name} must be a number`);
  }
  if (!(value >= min && value <= max)) {
    throw new RangeError(`${name} must be from ${min} to ${max}: ${value}`);
  }
}

function checkWhole(name: string, value: number) {
  if (!Number.isInteger(value)) {
    throw new RangeError(`${name} must be a whole number: ${value}`);
  }
}

function checkCallback(name: string, value: unknown) {
  if (value !== undefined && typeof value !== "function") {
    throw new TypeError(`${name} must be a function`);
  }
}
