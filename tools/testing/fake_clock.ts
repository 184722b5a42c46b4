/**
 * A clock for the tests: `performance.now()`, `setTimeout` and `clearTimeout`.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { clearImmediate, setImmediate } from "node:timers";

interface FakeTimer {
  time: number;
  wake: () => void;
}

/**
 * A clock that stands still until the test lets time pass. Timers of 0 ms fire
 * in the next turn of the event loop. If there is no I/O to poll, as on a
 * network in memory, `setImmediate` makes that turn far shorter.
 */
export class FakeClock implements Disposable {
  now = 0;
  /** The delay of every timer so far. */
  readonly delays: number[] = [];
  readonly #timers = new Map<number, FakeTimer>();
  readonly #real = {
    setTimeout: globalThis.setTimeout,
    clearTimeout: globalThis.clearTimeout,
    now: performance.now,
  };
  /** The timers of 0 ms, and how to cancel them. */
  readonly #turns = new Map<number, () => void>();
  #armed = Promise.withResolvers<void>();

  constructor(readonly hasIO = false) {
    performance.now = () => this.now;
    Object.assign(globalThis, {
      setTimeout: this.#setTimeout,
      clearTimeout: this.#clearTimeout,
    });
  }

  readonly #setTimeout = (wake: () => void, ms = 0): unknown => {
    this.delays.push(ms);
    const id = -this.delays.length; // no real timer has a negative id
    if (ms === 0) {
      const fire = () => this.#turns.delete(id) && wake();
      this.#turns.set(id, this.#nextTurn(fire));
      return id;
    }
    this.#timers.set(id, { time: this.now + ms, wake });
    this.#armed.resolve();
    return id;
  };

  readonly #clearTimeout = (id?: number): void => {
    this.#turns.get(id!)?.();
    this.#turns.delete(id!);
    if (!this.#timers.delete(id!)) this.#real.clearTimeout(id);
  };

  /** Calls back in the next turn. Returns a function that cancels that. */
  #nextTurn(fire: () => void): () => void {
    if (this.hasIO) {
      const id = this.#real.setTimeout(fire, 0);
      return () => this.#real.clearTimeout(id);
    }
    const immediate = setImmediate(fire);
    return () => clearImmediate(immediate);
  }

  /** Lets so much time pass. */
  advance(ms: number): void {
    const end = this.now + ms;
    while (this.#fire(end));
    this.now = end;
  }

  /** Lets time pass, from timer to timer, until the promise settles. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const done = promise.then(() => {}, () => {}).then(() => settled = true);
    while (true) {
      await Promise.race([done, this.#armed.promise]);
      await this.#idle();
      if (settled) return await promise;
      this.#fire(Infinity);
    }
  }

  /** Waits until nobody has waited for the event loop for three turns. */
  async #idle(): Promise<void> {
    for (let turns = 0; turns < 3; turns++) {
      await new Promise<void>((go) => this.#nextTurn(go));
      if (this.#turns.size > 0) turns = 0;
    }
  }

  /** Goes on to the next timer, unless it is after `end`. */
  #fire(end: number): boolean {
    const [next] = [...this.#timers].sort(([, a], [, b]) => a.time - b.time);
    if (next === undefined) this.#armed = Promise.withResolvers();
    if (next === undefined || next[1].time > end) return false;
    const [id, { time, wake }] = next;
    this.#timers.delete(id);
    this.now = Math.max(this.now, time);
    wake();
    return true;
  }

  /** Gives the real clock back. No timer may be left. */
  [Symbol.dispose](): void {
    const { setTimeout, clearTimeout, now } = this.#real;
    Object.assign(globalThis, { setTimeout, clearTimeout });
    performance.now = now;
    assertEquals(this.#timers.size, 0, "a timer is left");
  }
}
