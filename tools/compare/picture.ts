/**
 * What the rounds come to, as a picture.
 *
 * @module
 */

import { drawBars } from "../picture/bars.ts";
import { type Comparison, ratios, spread, valuesOf } from "./report.ts";

/** Draws processor time and p99, or with `--held` the memory of a client. */
export function draw({ options, rows }: Comparison): string {
  const { held, clients, rounds } = options;
  const each = (key: string) =>
    rows.map(({ samples }) => valuesOf(samples, key));
  const [base] = rows[0].server.label.split(",");
  const cpu = each("cpu_us");
  const load = [{
    title: `processor time, ${base} = 1`,
    digits: 2,
    values: cpu.map((values) => ratios(values, cpu[0])),
    reference: 1,
  }, {
    title: "p99 latency, ms",
    digits: 0,
    values: each("p99_ms").map(spread),
  }];
  const memory = [{
    title: "memory that each takes, kB",
    digits: 1,
    values: each("idle_kb").map(spread),
  }];
  return drawBars(
    held > 0 ? `${held} idle clients` : `${clients} clients at once`,
    rounds === 1
      ? "One round has no spread: it shows no clear difference."
      : `Bars: medians of ${rounds} rounds. Lines: lowest to highest.`,
    rows.map(({ server: { label } }) => ({
      label: label.replaceAll("`", ""),
      own: label.startsWith("this service"),
    })),
    held > 0 ? memory : load,
  );
}
