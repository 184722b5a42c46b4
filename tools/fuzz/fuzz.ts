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
import { describeScript, scriptOf } from "./script.ts";
import { type Run, simulate } from "./simulation.ts";

/** Runs the script of a seed; throws if something is wrong. */
export async function fuzz(seed: number, server = serve): Promise<Run> {
  const script = scriptOf(seed);
  const run = await simulate(script, server);
  const wrong = [...violations(script, run)];
  if (wrong.length === 0) return run;
  const repeat = `deno task fuzz --seed ${seed}`;
  throw new Error([...wrong, repeat, describeScript(script)].join("\n"));
}

/** How often each outcome was reported in some runs. */
export function countOutcomes(runs: Run[]): Record<string, number> {
  const counts: Record<string, number> = {};
  const connections = runs.flatMap((run) => run.connections);
  for (const { outcome } of connections.flatMap(({ reports }) => reports)) {
    counts[outcome] = (counts[outcome] ?? 0) + 1;
  }
  return counts;
}

async function fuzzFor(seconds: number): Promise<void> {
  const end = performance.now() + 1000 * seconds;
  const first = crypto.getRandomValues(new Uint32Array(1))[0];
  const total: Record<string, number> = {};
  let seed = first;
  for (; performance.now() < end; seed++) {
    const counts = countOutcomes([await fuzz(seed)]);
    for (const outcome in counts) {
      total[outcome] = (total[outcome] ?? 0) + counts[outcome];
    }
  }
  console.log(`all is well after ${seed - first} scripts:`, total);
}

async function main(args: string[]): Promise<void> {
  const repeats = args[0] === "--seed";
  const [given = repeats ? "none" : "10", ...extra] = args.slice(+repeats);
  const n = Number(given);
  if (!(n >= 0) || repeats && !Number.isInteger(n) || extra.length > 0) {
    console.error("usage: deno task fuzz [SECONDS | --seed N]");
    Deno.exit(2);
  }
  if (!repeats) return await fuzzFor(n);
  console.log(describeScript(scriptOf(n)));
  console.log(countOutcomes([await fuzz(n)]));
}

if (import.meta.main) {
  try {
    await main(Deno.args);
  } catch (error) {
    console.error((error as Error).message);
    Deno.exit(1);
  }
}
