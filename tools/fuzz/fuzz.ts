/**
 * Fuzz: random scripts for clients and for stopping the server, over a network
 * in memory and with its own clock; invariants.ts says what must hold.
 *
 * ```sh
 * deno task fuzz            # for 10 seconds
 * deno task fuzz 60
 * deno task fuzz --seed 7   # one script again
 * ```
 *
 * @module
 */

import { serve } from "../../server.ts";
import { violations } from "./invariants.ts";
import { scriptOf } from "./random_script.ts";
import { type Run, simulate } from "./simulation.ts";

/** Runs the script of a seed; throws if something is wrong. */
export async function fuzz(seed: number, server = serve): Promise<Run> {
  const script = scriptOf(seed);
  const run = await simulate(script, server);
  const wrong = [...violations(run)];
  if (wrong.length === 0) return run;
  const repeat = `deno task fuzz --seed ${seed}`;
  throw new Error([...wrong, repeat, Deno.inspect(script)].join("\n"));
}

/** Runs the scripts of many seeds; returns how often each outcome was reported. */
export async function fuzzAll(
  seeds: Iterable<number>,
): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const seed of seeds) {
    const { connections } = await fuzz(seed);
    for (const { outcome } of connections.flatMap(({ reports }) => reports)) {
      counts[outcome] = (counts[outcome] ?? 0) + 1;
    }
  }
  return counts;
}

/** Seed after seed, from a random one on. */
function* seedsFor(seconds: number): Generator<number> {
  const end = performance.now() + 1000 * seconds;
  let [seed] = crypto.getRandomValues(new Uint32Array(1));
  while (performance.now() < end) yield seed++;
}

const USAGE = "usage: deno task fuzz [SECONDS | --seed N]";

async function main(args: string[]): Promise<void> {
  const repeats = args[0] === "--seed";
  const [given = repeats ? "none" : "10", ...extra] = args.slice(+repeats);
  const n = Number(given);
  if (given === "--help") return console.log(USAGE);
  if (!(n >= 0) || repeats && !Number.isInteger(n) || extra.length > 0) {
    console.error(USAGE);
    Deno.exit(2);
  }
  if (repeats) console.log(scriptOf(n));
  const counts = await fuzzAll(repeats ? [n] : seedsFor(n));
  console.log("all is well, these are the outcomes:", counts);
}

if (import.meta.main) {
  try {
    await main(Deno.args);
  } catch (error) {
    console.error((error as Error).message);
    Deno.exit(1);
  }
}
