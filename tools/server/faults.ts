/**
 * What goes wrong in the tests of this room.
 *
 * @module
 */

import { specOver } from "../testing/spec.ts";
import type { MemoryConn, MemoryListener } from "../testing/memory_network.ts";
import { memory, memoryNetwork } from "../testing/transports.ts";

/** Over a network with buffers of 100 bytes. */
export const inSmallBuffers = specOver(
  [{ ...memory, open: () => memoryNetwork({ bufferSize: 100 }) }],
  ["concurrent"],
);

/** Fills the client's buffer, so that the server's writes are stuck. */
export const stuck = (conn: MemoryConn) =>
  void conn.write(new Uint8Array(conn.options.bufferSize));

/** An error with a code, as the kernel's have. */
export const errorOf = (code: unknown) =>
  Object.assign(new Error(`accept failed: ${String(code)}`), { code });

/** From now on, every accept of a listener fails. Returns the listener. */
export function failEveryAccept(
  listener: MemoryListener,
  errorFor: (attempt: number) => Error,
): MemoryListener {
  const next = listener.next.bind(listener);
  let attempts = 0;
  listener.next = () =>
    listener.closed ? next() : Promise.reject(errorFor(++attempts));
  return listener;
}
