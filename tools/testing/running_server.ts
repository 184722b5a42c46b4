/**
 * A server that runs in a test, with its clients.
 *
 * @module
 */

import { type Exchange, serve, type ServeOptions } from "../../server.ts";
import { ask, type Conn, tryClose } from "./clients.ts";
import { Inbox } from "./timing.ts";
import type { Network } from "./transports.ts";

type Callbacks = Pick<ServeOptions, "onExchange" | "onAcceptError">;

/**
 * Serves on a network. What it returns is to be declared with `await using`:
 * then its clients are closed and the server is shut down.
 */
export function start<N extends Network>(
  network: N,
  options: Omit<ServeOptions, keyof Callbacks> = {},
) {
  const exchanges: Inbox<Exchange> = new Inbox();
  const acceptErrors: Inbox<unknown> = new Inbox();
  const callbacks: Callbacks = {}; // for the test to set, at any time
  const controller = new AbortController();
  const server = serve(network.listener as N["listener"], {
    signal: controller.signal,
    ...options,
    onExchange(exchange) {
      exchanges.push(exchange);
      return callbacks.onExchange?.(exchange);
    },
    onAcceptError(error) {
      acceptErrors.push(error);
      return callbacks.onAcceptError?.(error);
    },
  });

  const clients: Conn[] = [];
  async function connect(): Promise<Awaited<ReturnType<N["connect"]>>> {
    const client = await network.connect();
    clients.push(client);
    return client as Awaited<ReturnType<N["connect"]>>;
  }

  return Object.assign(callbacks, {
    network,
    server,
    /** Those that have finished. */
    exchanges,
    acceptErrors,
    connect,

    connectMany: (count: number) =>
      Promise.all(Array.from({ length: count }, connect)),

    /** One whole exchange; returns everything that the server sent. */
    exchange: async (message: string) => ask(await connect(), message),

    /** How the first `count` exchanges ended, once they have. */
    outcomes: async (count: number) =>
      (await exchanges.waitFor(count)).map(({ outcome }) => outcome),

    /** Aborts the server's signal. */
    abort: () => controller.abort(),

    async [Symbol.asyncDispose](): Promise<void> {
      clients.forEach(tryClose);
      await server.shutdown();
      await network.clean?.();
    },
  });
}

/** What {@linkcode start} returns. */
export type Service<N extends Network = Network> = ReturnType<typeof start<N>>;
