/**
 * Measures one server once.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { Child, output } from "../testing/child.ts";
import type { Options } from "./options.ts";
import type { Server } from "./servers.ts";

/** The server runs on one processor, the load generator on the other. */
export const PROCESSORS = { server: "0", generator: "1" };
/** The unit of processor time in `/proc`. */
const TICKS_PER_SECOND = 100;
const START_TIMEOUT = 30_000;
const START_RETRY = 50;

/** One round of one server: the numbers by the names of their columns. */
export interface Sample {
  values: Record<string, number>;
  exchanges: number;
  /** How many exchanges failed, by what went wrong. */
  failures: Record<string, number>;
}

/** What the load generator prints. */
interface Result {
  exchanges: number;
  per_second: number;
  p50_ms: number;
  p99_ms: number;
  failures: Record<string, number>;
}

/** Measures servers, one at a time. */
export class Meter {
  /** @param generator The binary of echoload.c. */
  constructor(
    readonly generator: string,
    readonly options: Options,
    readonly signal: AbortSignal,
  ) {}

  async measure(server: Server): Promise<Sample> {
    const port = freePort();
    const command = server.command
      .map((arg) => arg.replaceAll("{port}", `${port}`));
    await using child = new Child(
      pinned(PROCESSORS.server, ...command),
      { signal: this.signal },
    );
    await this.#untilReady(server, child, port);
    const sample = this.options.held > 0
      ? await this.#hold(child, port)
      : await this.#load(child, port);
    if (child.ended) throw await endedError(server, child);
    return sample;
  }

  /** Waits for the first whole exchange. */
  async #untilReady(server: Server, child: Child, port: number): Promise<void> {
    const start = performance.now();
    while (performance.now() < start + START_TIMEOUT) {
      if (child.ended) throw await endedError(server, child);
      const { exchanges, failures } = await this.#generate(port, 1, 0);
      if (exchanges === 1) return;
      if (failures.connect === 0) {
        throw new Error(
          `${server.name}: the first exchange failed (${
            describeFailures(failures)
          })`,
        );
      }
      await delay(START_RETRY, undefined, { signal: this.signal });
    }
    throw new Error(`${server.name}: does not listen on the port it was given`);
  }

  async #load(child: Child, port: number): Promise<Sample> {
    const { clients, seconds, warmUp } = this.options;
    if (warmUp > 0) await this.#generate(port, clients, warmUp);
    const before = await cpuTime(child, this.signal);
    const result = await this.#generate(port, clients, seconds);
    const after = await cpuTime(child, this.signal);
    const user = after.user - before.user;
    const system = after.system - before.system;
    return {
      values: {
        cpu_us: (user + system) / result.exchanges * 1e6,
        user_us: user / result.exchanges * 1e6,
        per_second: result.per_second,
        p50_ms: result.p50_ms,
        p99_ms: result.p99_ms,
        memory_mb: await child.residentMemory() / 1024,
      },
      exchanges: result.exchanges,
      failures: result.failures,
    };
  }

  async #hold(child: Child, port: number): Promise<Sample> {
    const { held, seconds } = this.options;
    const before = await child.residentMemory();
    await using generator = new Child(
      this.#generatorCommand(port, held, "hold"),
      { signal: this.signal, stdin: "piped" },
    );
    const [, greeted] = await generator.shows(/^held (\d+)\n/);
    await delay(seconds * 1000, undefined, { signal: this.signal });
    const during = await child.residentMemory();
    await generator.closeStdin(); // lets them finish
    await generator.code();
    const { exchanges, failures } = this.#parse(generator.stdout.all[1]);
    return {
      values: { idle_kb: (during - before) / Number(greeted) },
      exchanges,
      failures,
    };
  }

  /** Runs the load generator; with 0 seconds each client makes one exchange. */
  async #generate(
    port: number,
    clients: number,
    seconds: number,
  ): Promise<Result> {
    const command = this.#generatorCommand(port, clients, `${seconds}`);
    return this.#parse(await output(command, { signal: this.signal }));
  }

  #generatorCommand(port: number, clients: number, how: string): string[] {
    const args = [`${port}`, `${clients}`, how];
    return pinned(PROCESSORS.generator, this.generator, ...args);
  }

  #parse(json: string): Result {
    this.signal.throwIfAborted();
    try {
      return JSON.parse(json);
    } catch {
      throw new Error("the load generator ended early");
    }
  }
}

/** Seconds of processor time that the session of a program has used. */
async function cpuTime(
  { pid }: Child,
  signal: AbortSignal,
): Promise<{ user: number; system: number }> {
  // Not Deno.readTextFile: below /proc it needs --allow-all.
  const read = "cat /proc/[0-9]*/stat 2> /dev/null || true"; // some have ended
  const stdout = await output(["sh", "-c", read], { signal });
  const total = { user: 0, system: 0 };
  for (const line of stdout.split("\n")) {
    // The second field is the program's name, which may hold anything.
    const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
    if (Number(fields[3]) !== pid) continue;
    total.user += Number(fields[11]) / TICKS_PER_SECOND;
    total.system += Number(fields[12]) / TICKS_PER_SECOND;
  }
  return total;
}

/** Runs a program on one processor. It ends with this process, however. */
export const pinned = (processor: string, ...program: string[]) => [
  ...["setpriv", "--pdeathsig=KILL", "taskset", "-c", processor],
  ...program,
];

function freePort(): number {
  using listener = Deno.listen({ port: 0 });
  return listener.addr.port;
}

async function endedError({ name }: Server, child: Child): Promise<Error> {
  await child.code();
  const line = child.stderr.all.at(-1) ?? "without a word";
  return new Error(`${name}: the server ended: ${line}`);
}

/** What went wrong, and how often. */
export function describeFailures(failures: Record<string, number>): string {
  return Object.entries(failures).filter(([, count]) => count > 0)
    .map(([why, count]) => `${why} ${count}`).join(", ");
}
