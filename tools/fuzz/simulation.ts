/**
 * Runs a script over the network in memory, and notes what happens.
 *
 * @module
 */

import type { Conn, Exchange, Listener, serve } from "../../server.ts";
import { type MemoryConn, MemoryListener } from "../testing/memory_network.ts";
import { FakeClock, type Moment } from "../testing/fake_clock.ts";
import { Random } from "../testing/random.ts";
import { delay, turn } from "../testing/timing.ts";
import type { ClientEvent } from "./model.ts";
import {
  clientByte,
  type ClientScript,
  type Control,
  greetingByte,
  type Script,
  type Step,
} from "./random_script.ts";

type Serve = typeof serve;

/** Runs a script against a server, which must end at last. */
export async function simulate(script: Script, serve: Serve): Promise<Run> {
  using clock = new FakeClock(false, script.settings.msPerTurn);
  const run = new Run(script, clock);
  using _ = run.watchErrors();
  await clock.run(run.start(serve)).catch(() => {}); // or it never ends
  if (run.finished) run.clients.forEach((client) => client.finish());
  await clock.run(turn());
  clock.clear(); // some clients would go on
  return run;
}

/** A run of a script, and what happened in it. */
export class Run {
  readonly clients: Client[];
  readonly connections: Connection[] = [];
  /** The moment of the first of each. */
  readonly stops: { shutdown?: Moment; abort?: Moment } = {};
  listenerClosed?: Moment;
  finished?: Moment;
  /** When `finished` resolved: the server's timers. */
  timers = 0;
  readonly acceptErrors = { thrown: 0, reported: 0 };
  readonly callbackErrors = { thrown: 0, printed: 0 };
  /** Errors and rejections that nobody has caught. */
  readonly uncaught: unknown[] = [];
  /** Pairs of clients whose bytes were in one buffer at the same time. */
  readonly shared: [Connection, Connection][] = [];
  readonly #listener: MemoryListener;
  readonly #random: Random;
  /** Timers that are not the server's. */
  #sleepers = 0;

  constructor(readonly script: Script, readonly clock: FakeClock) {
    this.#listener = new MemoryListener(script.settings);
    this.#random = new Random(script.seed);
    this.clients = script.clients.map((client, index) =>
      new Client(client, index, this)
    );
  }

  /** Starts it all; settles when the server has finished. */
  start(serve: Serve): Promise<void> {
    const { settings, controls } = this.script;
    const stop = new AbortController();
    const server = serve(this.#watchedListener(), {
      ...settings,
      greeting: Uint8Array.from(
        { length: settings.greeting },
        (_, n) => greetingByte(n),
      ),
      signal: stop.signal,
      onExchange: (exchange) => this.#onExchange(exchange),
      onAcceptError: () => {
        this.acceptErrors.reported++;
        return this.#fail();
      },
    });
    const finished = server.finished.then(() => {
      this.finished = this.clock.moment;
      this.timers = this.clock.pending - this.#sleepers;
    });
    for (const client of this.clients) client.start(this.#listener);
    for (const control of controls) this.#control(control, server, stop);
    return finished;
  }

  async #control(
    { at, do: what }: Control,
    server: ReturnType<Serve>,
    stop: AbortController,
  ): Promise<void> {
    await this.sleep(at);
    if (what === "fail an accept") {
      this.#listener.fail(new Error("accept failed"));
      return;
    }
    this.stops[what] ??= this.clock.moment;
    if (what === "abort") stop.abort();
    else await server.shutdown();
  }

  #onExchange(exchange: Exchange): unknown {
    const { port } = exchange.remote as Deno.NetAddr;
    const connection = this.connections.find((one) => one.port === port);
    connection?.reports.push({ ...exchange, ...this.clock.moment });
    return this.#fail();
  }

  /** Returns to the server from a callback as the script says. */
  #fail(): unknown {
    if (this.script.callbacks === "return") return;
    this.callbackErrors.thrown++;
    const error = new Error("a callback failed");
    if (this.script.callbacks === "reject") return Promise.reject(error);
    throw error;
  }

  /** Waits on a timer that is not the server's. */
  async sleep(ms: number): Promise<void> {
    this.#sleepers++;
    await delay(Math.max(0, ms));
    this.#sleepers--;
  }

  /** The server gets a result some microtasks later. */
  async late<T>(operation: Promise<T>): Promise<T> {
    const result = await operation;
    const microtasks = this.#random.int(0, this.script.settings.latency);
    for (let i = 0; i < microtasks; i++) await undefined;
    return result;
  }

  #watchedListener(): Listener {
    return {
      addr: this.#listener.addr,
      close: () => {
        this.#listener.close();
        this.listenerClosed = this.clock.moment;
      },
      [Symbol.asyncIterator]: () => ({ next: () => this.#accept() }),
    };
  }

  async #accept(): Promise<IteratorResult<Conn>> {
    try {
      const { done, value } = await this.late(this.#listener.next());
      if (done) return { done, value: undefined };
      const connection = new Connection(value, this);
      this.connections.push(connection);
      return { value: connection };
    } catch (error) {
      const gone = error instanceof Deno.errors.NotConnected;
      if (!gone) this.acceptErrors.thrown++;
      throw error;
    }
  }

  /** From its read to its report, a connection shares its buffer with nobody. */
  noteBuffer(connection: Connection): void {
    const others = this.connections.filter((other) =>
      other !== connection && other.reports.length === 0 &&
      overlap(other.buffer, connection.buffer)
    );
    for (const other of others) this.shared.push([connection, other]);
  }

  /** Counts what is printed, and notes what nobody catches. */
  watchErrors(): Disposable {
    const { error } = console;
    const { callbackErrors, uncaught } = this;
    console.error = () => {
      callbackErrors.printed++;
      if (this.script.brokenConsole) throw new Error("the console is broken");
    };
    const note = (event: ErrorEvent | PromiseRejectionEvent) => {
      event.preventDefault();
      uncaught.push("reason" in event ? event.reason : event.error);
    };
    globalThis.addEventListener("error", note);
    globalThis.addEventListener("unhandledrejection", note);
    return {
      [Symbol.dispose]() {
        console.error = error;
        globalThis.removeEventListener("error", note);
        globalThis.removeEventListener("unhandledrejection", note);
      },
    };
  }
}

function overlap(a?: Uint8Array, b?: Uint8Array): boolean {
  return a !== undefined && a.buffer === b?.buffer &&
    a.byteOffset < b.byteOffset + b.length &&
    b.byteOffset < a.byteOffset + a.length;
}

/** The server's end of a connection. */
export class Connection implements Conn {
  readonly remoteAddr: Deno.NetAddr;
  readonly accepted: Moment;
  readonly reports: (Exchange & Moment)[] = [];
  /** The buffer of its exchange. */
  buffer?: Uint8Array;
  closed?: Moment;

  constructor(readonly conn: MemoryConn, readonly run: Run) {
    this.remoteAddr = conn.remoteAddr;
    this.accepted = run.clock.moment;
  }

  get port(): number {
    return this.remoteAddr.port;
  }

  read(p: Uint8Array): Promise<number | null> {
    // Other buffers are for what is discarded.
    if (p.length === this.run.script.settings.maxBytes) {
      this.buffer = p;
      this.run.noteBuffer(this);
    }
    return this.run.late(this.conn.read(p));
  }

  write(p: Uint8Array): Promise<number> {
    return this.run.late(this.conn.write(p));
  }

  closeWrite(): Promise<void> {
    return this.run.late(this.conn.closeWrite());
  }

  close(): void {
    this.conn.close();
    this.closed = this.run.clock.moment;
  }
}

/** A client that follows its script. */
export class Client {
  connected?: Moment;
  port = 0;
  readonly events: ClientEvent[] = [];
  readonly received: number[] = [];
  /** How its reading ended, and when. */
  end?: "EOF" | Error;
  ended?: Moment;
  #conn?: MemoryConn;
  #sent = 0;

  constructor(
    readonly script: ClientScript,
    readonly index: number,
    readonly run: Run,
  ) {}

  async start(listener: MemoryListener): Promise<void> {
    const { at, eager, steps } = this.script;
    await this.run.sleep(at);
    try {
      this.#conn = await listener.connect();
    } catch {
      return; // the listener is closed
    }
    this.connected = this.run.clock.moment;
    this.port = this.#conn.localAddr.port;
    if (eager) this.#read(Infinity);
    for (const step of steps) {
      await this.run.sleep(step.after);
      await this.#take(step);
    }
  }

  async #take({ do: what, bytes }: Step): Promise<void> {
    const conn = this.#conn!;
    if (what === "send") return await this.#send(bytes);
    if (what === "read") {
      return this.script.eager ? undefined : await this.#read(bytes);
    }
    this.#note(what);
    if (what === "half-close") await conn.closeWrite();
    else if (what === "close") conn.close();
    else conn.reset();
  }

  #note(did: ClientEvent["did"], bytes = 0): void {
    const last = this.events.at(-1);
    if (
      did === "read" && last?.did === did && last.turn === this.run.clock.turn
    ) {
      last.bytes += bytes;
    } else {
      this.events.push({ did, bytes, ...this.run.clock.moment });
    }
  }

  async #send(bytes: number): Promise<void> {
    try {
      for (const end = this.#sent + bytes; this.#sent < end;) {
        const n = await this.#conn!.write(this.#bytes(end - this.#sent));
        this.#sent += n;
        this.#note("send", n);
      }
    } catch {
      // It has half-closed, or the server has closed.
    }
  }

  /** The next bytes to send, no more than can be sent at once. */
  #bytes(most: number): Uint8Array {
    const { bufferSize } = this.#conn!.options;
    const bytes = new Uint8Array(Math.min(most, bufferSize));
    for (let i = 0; i < bytes.length; i++) {
      bytes[i] = clientByte(this.index, this.#sent + i);
    }
    return bytes;
  }

  /** Reads until it has received `total` bytes, or there are no more. */
  async #read(total: number): Promise<void> {
    const p = new Uint8Array(1000);
    while (this.received.length < total && this.end === undefined) {
      const missing = p.subarray(0, total - this.received.length);
      try {
        const n = await this.#conn!.read(missing);
        if (n === null) this.end = "EOF";
        else this.#note("read", n);
        this.received.push(...p.subarray(0, n ?? 0));
      } catch (error) {
        this.end = error as Error;
      }
    }
    this.ended ??= this.run.clock.moment;
  }

  /** Reads what is left, now that the server is done. */
  finish(): void {
    if (this.#conn?.closed === false && !this.script.eager) {
      this.#read(Infinity);
    }
  }
}
