/**
 * A network in memory, for tests: a listener and connections that behave as
 * Deno's do over TCP on Linux. memory_network_test.ts compares the two.
 *
 * Whatever is written has arrived. What can be done at once is done within the
 * call, and its promise resolves soon after. There are no timers.
 *
 * @module
 */

export interface MemoryOptions {
  /** How many unread bytes each direction of a connection holds. */
  bufferSize?: number;
  /** The most bytes that one read returns. */
  maxRead?: number;
  /** The most bytes that one write takes. */
  maxWrite?: number;
}

/** An operation in progress: `attempt` returns undefined if it must wait. */
interface Operation<T> {
  attempt: () => T | undefined;
  resolve: (result: T) => void;
  reject: (error: unknown) => void;
}

/** Does what can be done, in the order of the calls; says whether it did any. */
function run<T>(operations: Operation<T>[]): boolean {
  const before = operations.length;
  while (operations.length > 0) {
    const { attempt, resolve, reject } = operations[0];
    try {
      const result = attempt();
      if (result === undefined) break;
      resolve(result);
    } catch (error) {
      reject(error);
    }
    operations.shift();
  }
  return operations.length < before;
}

function submit<T>(
  operations: Operation<T>[],
  progress: () => void,
  attempt: () => T | undefined,
): Promise<T> {
  return new Promise((resolve, reject) => {
    operations.push({ attempt, resolve, reject });
    progress();
  });
}

export class MemoryListener {
  readonly addr: Deno.NetAddr = address("192.0.2.1", 7);
  readonly #options: Required<MemoryOptions>;
  readonly #accepts: Operation<IteratorResult<MemoryConn>>[] = [];
  readonly #queue: MemoryConn[] = [];
  readonly #failures: unknown[] = [];
  closed = false;
  /** How often `close()` was called. */
  closes = 0;
  /** Sees each connection first when it is accepted. */
  onAccept: (conn: MemoryConn) => void = () => {};
  #connected = 0;

  constructor(options: MemoryOptions = {}) {
    this.#options = {
      bufferSize: 65_536,
      maxRead: Infinity,
      maxWrite: Infinity,
      ...options,
    };
  }

  /** How many connections wait to be accepted. */
  get queued(): number {
    return this.#queue.length;
  }

  // deno-lint-ignore require-await
  async connect(): Promise<MemoryConn> {
    if (this.closed) throw new Deno.errors.ConnectionRefused();
    const addr = address("192.0.2.2", 40_000 + this.#connected++);
    const client = new MemoryConn(addr, this.addr, this.#options);
    this.#queue.push(client.peer);
    this.#progress();
    return client;
  }

  /** Makes the next accept fail. */
  fail(error: unknown): void {
    this.#failures.push(error);
    this.#progress();
  }

  /** Accepts the next connection. */
  next(): Promise<IteratorResult<MemoryConn>> {
    return submit(this.#accepts, this.#progress, () => {
      if (this.closed) return { done: true, value: undefined };
      if (this.#failures.length > 0) throw this.#failures.shift();
      const value = this.#queue.shift();
      // Deno finds out when it asks for the client's address.
      if (value?.isReset) throw new Deno.errors.NotConnected();
      if (value) this.onAccept(value);
      return value && { value };
    });
  }

  [Symbol.asyncIterator](): AsyncIterator<MemoryConn> {
    return { next: () => this.next() }; // a test may replace it at any time
  }

  /** Ends the iteration, and resets the connections that still wait. */
  close(): void {
    this.closes++;
    if (this.closed) throw badResource();
    this.closed = true;
    for (const conn of this.#queue.splice(0)) conn.reset();
    this.#progress();
  }

  readonly #progress = () => void run(this.#accepts);
}

/** One end of a connection. */
export class MemoryConn {
  readonly peer: MemoryConn;
  readonly #reads: Operation<number | null>[] = [];
  readonly #writes: Operation<number>[] = [];
  readonly #unread: number[] = [];
  #eof = false;
  #writable = true;
  closed = false;
  /** The peer has reset the connection. */
  isReset = false;
  /** What a reset leaves behind: the next operation throws it, once. */
  #error?: Error;

  constructor(
    readonly localAddr: Deno.NetAddr,
    readonly remoteAddr: Deno.NetAddr,
    readonly options: Required<MemoryOptions>,
    peer?: MemoryConn,
  ) {
    this.peer = peer ?? new MemoryConn(remoteAddr, localAddr, options, this);
  }

  read(p: Uint8Array): Promise<number | null> {
    if (this.closed) return Promise.reject(badResource());
    return submit(this.#reads, this.#progress, () => {
      const n = Math.min(p.length, this.options.maxRead, this.#unread.length);
      if (n === 0) return this.#readNothing();
      p.set(this.#unread.splice(0, n));
      return n;
    });
  }

  #readNothing(): null | undefined {
    if (this.#eof) return null;
    this.#throwError();
    return this.isReset ? null : undefined;
  }

  write(p: Uint8Array): Promise<number> {
    if (this.closed) return Promise.reject(badResource());
    return submit(this.#writes, this.#progress, () => {
      this.#throwError();
      if (!this.#writable) throw new Deno.errors.BrokenPipe();
      const room = this.options.bufferSize - this.peer.#unread.length;
      const n = Math.min(p.length, this.options.maxWrite, room);
      if (this.peer.closed) this.#receiveReset(); // the answer to this write
      else this.peer.#unread.push(...p.subarray(0, n));
      return n || undefined;
    });
  }

  /** Half-closes: the peer reads EOF, and can still write. */
  async closeWrite(): Promise<void> {
    if (this.closed) throw badResource();
    await submit(this.#writes, this.#progress, () => {
      this.#writable = false;
      this.peer.#eof = true;
      return 0;
    });
  }

  /** Sends EOF and closes; if there is unread data, a reset follows. */
  close(): void {
    if (this.closed) throw badResource();
    this.peer.#eof = true;
    this.#end(this.#unread.length > 0);
  }

  /** Closes with a reset and no EOF, as with SO_LINGER set to 0. */
  reset(): void {
    if (this.closed) throw badResource();
    this.#end(true);
  }

  #end(withReset: boolean): void {
    this.closed = true;
    this.#unread.length = 0;
    for (const operations of [this.#reads, this.#writes]) {
      for (const { reject } of operations.splice(0)) {
        reject(new Deno.errors.Interrupted("operation canceled"));
      }
    }
    if (withReset) this.peer.#receiveReset();
    this.peer.#progress();
  }

  #receiveReset(): void {
    if (!this.#eof) this.#error = new Deno.errors.ConnectionReset();
    this.isReset = true;
    this.#writable = false;
  }

  #throwError(): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) throw error;
  }

  /** A read makes room for the peer's write, and a write wakes its read. */
  readonly #progress = (): void => {
    const reading = run(this.#reads);
    const writing = run(this.#writes);
    if (reading || writing) this.peer.#progress();
  };
}

function address(hostname: string, port: number): Deno.NetAddr {
  return { transport: "tcp", hostname, port };
}

function badResource(): Error {
  return new Deno.errors.BadResource("Bad resource ID");
}
