/**
 * Ends a tool by a signal, together with what it has started.
 *
 * @module
 */

const SIGNALS: [Deno.Signal, number][] = [
  ["SIGHUP", 1],
  ["SIGINT", 2],
  ["SIGTERM", 15],
];

/** Aborted when the process gets a signal. The reason is the exit code. */
export function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const [signal, number] of SIGNALS) {
    Deno.addSignalListener(signal, () => controller.abort(128 + number));
  }
  return controller.signal;
}
