/** A picture of bars: a row for each server, a column for each value. */

import { box, line, picture, text, WIDTH } from "./svg.ts";

export interface Column {
  title: string;
  digits: number;
  /** A value to mark. */
  reference?: number;
  /** For each row a value, and the ends of its spread. */
  values: { min: number; median: number; max: number }[];
}

const MARGIN = 16;
const STEP = 42;
/** Room for the numbers to the right of the bars. */
const NUMBER = 44;

export function drawBars(
  title: string,
  note: string,
  rows: { label: string; own: boolean }[],
  columns: Column[],
): string {
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
        box(left, y, at(median) - left, 14, rows[row].own ? "one" : "bar"),
        line(at(min), y + 7, at(max), y + 7, "spread"),
        text(left + width, y + 12, number, "end"),
        reference
          ? line(at(reference), y - 4, at(reference), y + 18, "dashed")
          : "",
      ];
    });
    return [text(left, 56, title, "quiet"), ...bars];
  });
  const labels = rows.map(({ label, own }, row) =>
    text(MARGIN, top(row), label, own ? "strong" : "")
  );
  return picture(title, note, top(rows.length) + 32, [...labels, ...drawn]);
}
