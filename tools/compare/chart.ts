/**
 * What the rounds come to, as a picture: a row of bars for each server.
 *
 * @module
 */

import { box, line, picture, text, WIDTH } from "../svg/svg.ts";
import {
  type Comparison,
  ratios,
  type Spread,
  spread,
  valuesOf,
} from "./report.ts";

const MARGIN = 16;
const STEP = 42;
/** Room for the numbers to the right of the bars. */
const NUMBER = 44;

interface Column {
  title: string;
  digits: number;
  /** A value to mark. */
  reference?: number;
  /** For each server. */
  values: Spread[];
}

/** Draws processor time and p99, or with `--held` the memory of a client. */
export function draw(comparison: Comparison): string {
  const { held, clients, rounds } = comparison.options;
  const labels = comparison.rows.map(({ server: { label } }) =>
    label.replaceAll("`", "")
  );
  const isOwn = labels.map((label) => label.startsWith("this service"));
  const columns = columnsOf(comparison);
  const width = (WIDTH - MARGIN) / columns.length - MARGIN;
  const top = (row: number) => 84 + row * STEP;
  const drawn = columns.flatMap(({ title, digits, reference, values }, i) => {
    const left = MARGIN + i * (width + MARGIN);
    const sizes = values.map(({ max }) => max).filter(Number.isFinite);
    const scale = (width - NUMBER) / Math.max(...sizes, reference ?? 0.1);
    const at = (n: number) =>
      Math.round(left + (n > 0 && n < Infinity ? n * scale : 0));
    const bars = values.flatMap(({ min, median, max }, row) => {
      const y = top(row) + 8;
      const number = Number.isFinite(median) ? median.toFixed(digits) : "-";
      return [
        box(left, y, at(median) - left, 14, isOwn[row] ? "one" : "bar"),
        line(at(min), y + 7, at(max), y + 7, "spread"),
        text(left + width, y + 12, number, "end"),
        reference
          ? line(at(reference), y - 4, at(reference), y + 18, "dashed")
          : "",
      ];
    });
    return [text(left, 56, title, "quiet"), ...bars];
  });
  return picture(
    held > 0 ? `${held} idle clients` : `${clients} clients at once`,
    rounds === 1
      ? "One round has no spread: it shows no clear difference."
      : `Bars: medians of ${rounds} rounds. Lines: lowest to highest.`,
    top(labels.length) + 32,
    [
      ...labels.map((label, row) =>
        text(MARGIN, top(row), label, isOwn[row] ? "strong" : "")
      ),
      ...drawn,
    ],
  );
}

function columnsOf({ options, rows }: Comparison): Column[] {
  const each = (key: string) =>
    rows.map(({ samples }) => valuesOf(samples, key));
  if (options.held > 0) {
    const title = "memory that each takes, kB";
    return [{ title, digits: 1, values: each("idle_kb").map(spread) }];
  }
  const [base] = rows[0].server.label.split(",");
  const cpu = each("cpu_us");
  return [{
    title: `processor time, ${base} = 1`,
    digits: 2,
    values: cpu.map((values) => ratios(values, cpu[0])),
    reference: 1,
  }, {
    title: "p99 latency, ms",
    digits: 0,
    values: each("p99_ms").map(spread),
  }];
}
