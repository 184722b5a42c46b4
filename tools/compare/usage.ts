/**
 * What a server uses, together with all that it has started.
 *
 * @module
 */

import { type Child, output } from "../testing/child.ts";

/** The unit of processor time in `/proc`. */
const TICKS_PER_SECOND = 100;

/** Seconds of processor time that the session of a program has used. */
export async function cpuTime(
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
