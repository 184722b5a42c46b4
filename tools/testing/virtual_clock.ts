/**
 * A clock for tests. While it is installed, `setTimeout`, `clearTimeout` and
 * `performance.now` follow it; it jumps to the next timer whenever nothing else
 * can run.
 *
 * @module
 */

import { setImmediate } from "node:timers";

interface Timer {
  at: number;
  fire: () => void;
}

/** A moment: the time, and how many timers have fired until then. */
export interface Moment {
  at: number;
  turn: number;
}

export class VirtualClock implements Disposable {
  now = 0;
  turn = 0;
  #lastId = 0;
  /** The timers of the code under test. */
  readonly #timers = new Map<number, Timer>();
  /** The timers of the test itself. */
  readonly #sleepers = new Set<Timer>();
  readonly #real = { setTimeout, clearTimeout };

  constructor() {
    const set = (fire: () => void, ms = 0) => {
      this.#timers.set(++this.#lastId, {
        at: this.now + Math.max(0, ms),
        fire,
      });
      return this.#lastId;
    };
    const clear = (id?: number) => void this.#timers.delete(id!);
    Object.assign(globalThis, { setTimeout: set, clearTimeout: clear });
    Object.assign(performance, { now: () => this.now });
  }

  [Symbol.dispose](): void {
    Object.assign(globalThis, this.#real);
    Reflect.deleteProperty(performance, "now");
  }

  get moment(): Moment {
    return { at: this.now, turn: this.turn };
  }

  /** How many timers the code under test has set. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Waits without counting as a timer of the code under test. */
  sleep(ms: number): Promise<void> {
    return new Promise((fire) =>
      this.#sleepers.add({ at: this.now + Math.max(0, ms), fire })
    );
  }

  /** Runs until `done` holds; returns false if it never will. */
  async run(done: () => boolean, maxTurns: number): Promise<boolean> {
    for (const end = this.turn + maxTurns; this.turn < end;) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (done()) return true;
      if (!this.#fireNext()) return false;
    }
    return false;
  }

  #fireNext(): boolean {
    let next: Timer | undefined;
    let remove = () => {};
    for (const [id, timer] of this.#timers) {
      if (next && timer.at >= next.at) continue;
      next = timer;
      remove = () => void this.#timers.delete(id);
    }
    for (const timer of this.#sleepers) {
      if (next && timer.at >= next.at) continue;
      next = timer;
      remove = () => void this.#sleepers.delete(timer);
    }
    if (!next) return false;
    remove();
    this.now = Math.max(this.now, next.at);
    this.turn++;
    next.fire();
    return true;
  }
}
