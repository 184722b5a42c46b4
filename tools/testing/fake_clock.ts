/**
 * A clock for the tests: `performance.now()`, `setTimeout` and `clearTimeout`.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { clearImmediate, setImmediate } from "node:timers";

/** A time, and how many timers have fired until then. */
export interface Moment {
  at: number;
  turn: number;
}

interface FakeTimer {
  id: number;
  time: number;
  wake: () => void;
}

/** More timers than any test should see fire. */
const MAX_TURNS = 20_000;

/**
 * A clock that stands still until the test lets time pass. Timers of 0 ms fire
 * in the next turn of the event loop. If there is no I/O to poll, as on a
 * network in memory, `setImmediate` makes that turn far shorter.
 */
export class FakeClock implements Disposable {
  now = 0;
  /** How many timers have fired. */
  turn = 0;
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

  /** `msPerTurn`: how long a turn takes, so that other timers fire meanwhile. */
  constructor(readonly hasIO = false, readonly msPerTurn = 0) {
    performance.now = () => this.now;
    Object.assign(globalThis, {
      setTimeout: this.#setTimeout,
      clearTimeout: this.#clearTimeout,
    });
  }

  get moment(): Moment {
    return { at: this.now, turn: this.turn };
  }

  /** How many timers are set. */
  get pending(): number {
    return this.#timers.size + this.#turns.size;
  }

  readonly #setTimeout = (wake: () => void, ms = 0): unknown => {
    this.delays.push(ms);
    const id = -this.delays.length; // no real timer has a negative id
    ms ||= this.msPerTurn;
    if (ms === 0) {
      const fire = () => {
        this.#turns.delete(id);
        this.turn++;
        wake();
      };
      this.#turns.set(id, this.#nextTurn(fire));
      return id;
    }
    this.#timers.set(id, { id, time: this.now + ms, wake });
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

  /** Lets `ms` milliseconds pass. */
  advance(ms: number): void {
    const end = this.now + ms;
    while (this.#fire(end));
    this.now = end;
  }

  /** Lets time pass, from timer to timer, until the promise settles. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const done = promise.then(() => {}, () => {}).then(() => settled = true);
    for (const end = this.turn + MAX_TURNS; this.turn < end;) {
      // Only what comes from outside can settle it while no timer is set.
      if (this.hasIO) await Promise.race([done, this.#armed.promise]);
      await this.#idle(end);
      if (settled) return await promise;
      if (!this.#fire(Infinity) && !this.hasIO) break;
    }
    throw new Error("the promise never settles");
  }

  /** Waits until nobody has waited for the event loop for some turns. */
  async #idle(end: number): Promise<void> {
    const enough = this.hasIO ? 3 : 1;
    for (let idle = 0; idle < enough && this.turn < end; idle++) {
      await new Promise<void>((go) => this.#nextTurn(go));
      if (this.#turns.size > 0) idle = -1;
    }
  }

  /** Goes on to the next timer, unless it is after `end`. */
  #fire(end: number): boolean {
    let next: FakeTimer | undefined;
    for (const timer of this.#timers.values()) {
      if (!next || timer.time < next.time) next = timer;
    }
    if (!next) {
      this.#armed = Promise.withResolvers();
      return false;
    }
    if (next.time > end) return false;
    this.#timers.delete(next.id);
    this.now = Math.max(this.now, next.time);
    this.turn++;
    next.wake();
    return true;
  }

  /** Forgets all timers. */
  clear(): void {
    this.#timers.clear();
    for (const cancel of this.#turns.values()) cancel();
    this.#turns.clear();
  }

  /** Gives the real clock back. No timer may be left. */
  [Symbol.dispose](): void {
    const { setTimeout, clearTimeout, now } = this.#real;
    Object.assign(globalThis, { setTimeout, clearTimeout });
    performance.now = now;
    assertEquals(this.pending, 0, "a timer is left");
  }
}
