/**
 * Waiting for turns of the event loop, for time, and for what comes.
 *
 * @module
 */

export const delay = (ms: number) => new Promise((go) => setTimeout(go, ms));

/** Lets everything else go on that can. */
export const turn = () => delay(0);

/** Long enough for what should not happen to happen. */
export async function turns(count = 5): Promise<void> {
  while (count-- > 0) await turn();
}

/** Returns a function that says how many seconds ago this was called. */
export function stopwatch(): () => number {
  const began = performance.now();
  return () => (performance.now() - began) / 1000;
}

/**
 * Tries, at most `times` times. An attempt that says that it was late has proved
 * nothing, so it is repeated.
 */
export async function retry(
  times: number,
  attempt: (n: number) => Promise<"late" | void>,
): Promise<void> {
  for (let n = 0; n < times; n++) if (await attempt(n) !== "late") return;
  throw new Error(`late, ${times} times out of ${times}`);
}

/** Tries under a time limit in seconds, and then under the next one. */
export const tryWithin = (
  limits: number[],
  attempt: (seconds: number) => Promise<"late" | void>,
) => retry(limits.length, (n) => attempt(limits[n]));

/** A list of what has come so far, and a way to wait for more. */
export class Inbox<T> {
  readonly all: T[] = [];
  #waiting: (() => void)[] = [];

  push = (item: T): void => {
    this.all.push(item);
    this.wake();
  };

  /** Lets everybody who waits look again. */
  wake(): void {
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  /** Waits until there is something to be found; returns it. */
  async until<R>(look: () => R | undefined | null): Promise<R> {
    for (let found;;) {
      if ((found = look()) != null) return found;
      await new Promise<void>((wake) => this.#waiting.push(wake));
    }
  }

  waitFor(count: number): Promise<T[]> {
    return this.until(() => this.all.length >= count ? this.all : null);
  }

  /** Waits for the `count`th item that matches. */
  find(matches: (item: T) => boolean, count = 1): Promise<T> {
    return this.until(() => this.all.filter(matches)[count - 1]);
  }
}
