/**
 * Random numbers that a test can repeat.
 *
 * @module
 */

/** Random numbers, the same for the same seed (mulberry32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** From 0 up to 1, which it never is. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let x = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  }

  real(min: number, max: number): number {
    return min + this.next() * (max - min);
  }

  /** A whole number, `max` included. */
  int(min: number, max: number): number {
    return Math.floor(this.real(min, max + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(...from: T[]): T {
    return from[this.int(0, from.length - 1)];
  }
}
