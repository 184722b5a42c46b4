/**
 * What goes wrong in the tests of this room.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { specOver } from "../testing/spec.ts";
import type { MemoryConn, MemoryListener } from "../testing/memory_network.ts";
import { turn, turns } from "../testing/timing.ts";
import { memory, memoryNetwork } from "../testing/transports.ts";

/** Over a network with buffers of 100 bytes. */
export const inSmall = specOver(
  [{ ...memory, open: () => memoryNetwork({ bufferSize: 100 }) }],
  ["concurrent"],
);

/** Fills the client's buffer, so that the server's writes are stuck. */
export const stuck = (conn: MemoryConn) =>
  void conn.write(new Uint8Array(conn.options.bufferSize));

/** An error with a code, as the kernel's have. */
export const errorOf = (code: unknown) =>
  Object.assign(new Error(`accept failed: ${String(code)}`), { code });

/** Waits until so many clients are in the queue, and no fewer. */
export async function waitForQueue(listener: MemoryListener, size: number) {
  for (let i = 0; i < 1000 && listener.queued > size; i++) await turn();
  await turns();
  assertEquals(listener.queued, size);
}

/** Waits before each accept, from the next one on. */
export function beforeAccepts(
  listener: MemoryListener,
  wait: () => unknown,
): void {
  const next = listener.next.bind(listener);
  listener.next = async () => {
    await wait();
    return await next();
  };
}

/** Takes a turn of the event loop after so many accepts, from the next one on. */
export function acceptPerTurn(
  listener: MemoryListener,
  count: number,
  onTurn = () => {},
): void {
  let accepts = 0;
  beforeAccepts(listener, async () => {
    if (++accepts % count > 0) return;
    await turns(1);
    onTurn();
  });
}

/** A listener whose every accept fails. */
export function failing(
  listener: MemoryListener,
  errorFor: (attempt: number) => Error,
): MemoryListener {
  const next = listener.next.bind(listener);
  let attempts = 0;
  listener.next = () =>
    listener.closed ? next() : Promise.reject(errorFor(++attempts));
  return listener;
}

/** Collects what `console.error` is given, until it is disposed of. */
export function capturedErrors(): unknown[] & Disposable {
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (what: unknown) => void printed.push(what);
  const dispose = () => void (console.error = error);
  return Object.assign(printed, { [Symbol.dispose]: dispose });
}
