/**
 * Says once what a client does and what it must see, for every transport and
 * every mode.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import type { Mode, ServeOptions } from "../../server.ts";
import { FakeClock } from "./fake_clock.ts";
import { type Service, start } from "./running_server.ts";
import { GREETING } from "./bytes.ts";
import { type Conn, readExactly } from "./clients.ts";
import { needs } from "./needs.ts";
import { memory, type Network, type Transport } from "./transports.ts";

export const MODES: Mode[] = ["concurrent", "serial", "events"];
/** The modes in which a client does not wait for another. */
export const UNBLOCKED: Mode[] = ["concurrent", "events"];

type WithoutMode = Omit<ServeOptions, "mode">;
type Options<N> = WithoutMode | ((network: N) => WithoutMode);
type Test<N extends Network> = (
  service: Service<N> & { clock: FakeClock },
) => Promise<void>;

/**
 * Returns a function that defines a test over these transports in these modes.
 * The clock stands still unless the test lets time pass.
 *
 * To a client, `events` is the same as `concurrent`: the network in memory is
 * enough for it, unless it is the only mode.
 */
export function specOver<N extends Network>(
  transports: Transport<N>[],
  modes: Mode[] = MODES,
) {
  return (name: string, options: Options<N>, fn: Test<N>): void => {
    for (const transport of transports) {
      const isMemory = transport.name === "memory";
      for (const mode of modes) {
        if (mode === "events" && !isMemory && modes.length > 1) continue;
        const { permissions, others } = transport;
        const title = `${transport.name}, ${mode}: ${name}`;
        needs(permissions, others, title, async () => {
          using clock = new FakeClock(!isMemory);
          const network = await transport.open();
          const own = typeof options === "object" ? options : options(network);
          using last = new DisposableStack();
          await using service = start(network, { mode, ...own });
          try {
            await fn(Object.assign(service, { clock }));
          } catch (error) {
            last.use(ignoredRejections());
            await giveUp(service, clock, error);
            throw error;
          }
        });
      }
    }
  };
}

/** Ends a service whose test has failed, so that nothing hides its error. */
async function giveUp(
  { server, abort }: Service,
  clock: FakeClock,
  error: unknown,
): Promise<void> {
  abort();
  await clock.run(server.finished)
    .catch(() => console.error(error)); // the rest may hang
  clock.clear();
}

/** Until it is disposed of, nobody hears of what still rejects. */
function ignoredRejections(): Disposable {
  const ignore = (event: Event) => event.preventDefault();
  addEventListener("unhandledrejection", ignore);
  return {
    [Symbol.dispose]: () => removeEventListener("unhandledrejection", ignore),
  };
}

export const inMemory = specOver([memory], ["concurrent"]);
export const inEachMode = specOver([memory]);

/** Connects, and reads the greeting. */
export async function greeted<C extends Conn>(
  connect: () => Promise<C>,
): Promise<C> {
  const client = await connect();
  assertEquals(await readExactly(client, GREETING.length), GREETING);
  return client;
}
