/**
 * What the rounds come to: medians, ratios, and the table.
 *
 * @module
 */

import type { Sample } from "./measure.ts";
import type { Options } from "./options.ts";
import type { Server } from "./servers.ts";
import type { Versions } from "./versions.ts";

/** Everything that one run of the command found out. */
export interface Comparison {
  options: Options;
  versions: Versions;
  /** The servers in order, the base first, each with a sample a round. */
  rows: { server: Server; samples: Sample[] }[];
}

/** A column of medians. */
interface Column {
  key: string;
  title: string;
  digits: number;
}

/** The first column is the one whose ratio is shown. */
const LOAD: Column[] = [
  { key: "cpu_us", title: "CPU, µs", digits: 1 },
  { key: "user_us", title: "user, µs", digits: 1 },
  { key: "per_second", title: "exchanges/s", digits: 0 },
  { key: "p50_ms", title: "p50, ms", digits: 2 },
  { key: "p99_ms", title: "p99, ms", digits: 2 },
  { key: "memory_mb", title: "memory, MB", digits: 0 },
];
const HELD: Column[] = [
  { key: "idle_kb", title: "idle client, kB", digits: 1 },
];

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[middle]
    : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The median of some rounds, between the lowest and the highest. */
export interface Spread {
  min: number;
  median: number;
  max: number;
}

export const spread = (values: number[]): Spread => ({
  min: Math.min(...values),
  median: median(values),
  max: Math.max(...values),
});

/** The ratio of each value to the base's of the same round. */
export const ratios = (values: number[], base: number[]): Spread =>
  spread(values.map((value, round) => value / base[round]));

/** The comparison in Markdown: a heading, the versions and the table. */
export function toMarkdown(comparison: Comparison): string {
  const { options, rows } = comparison;
  const columns = options.held > 0 ? HELD : LOAD;
  const base = valuesOf(rows[0].samples, columns[0].key);
  const [first, ...others] = columns.map(({ title }) => title);
  return [
    heading(comparison),
    "",
    versionLine(comparison.versions),
    "",
    tableLine(["server", first, ...RATIO, ...others, ...TOTALS]),
    tableLine(
      ["---"].concat(
        Array(columns.length + RATIO.length + TOTALS.length).fill("---:"),
      ),
    ),
    ...rows.map(({ server, samples }) =>
      tableLine([server.label, ...cells(columns, samples, base)])
    ),
    "",
  ].join("\n");
}

function heading({ options, rows }: Comparison): string {
  const { held, clients, rounds, seconds } = options;
  const what = held > 0
    ? `${held} idle clients`
    : `${clients} clients at once, ${seconds} s a round`;
  const times = rounds === 1
    ? "one round, which has no spread: it shows no clear difference"
    : `medians of ${rounds} rounds`;
  return `**${what}, ${times}.** ` +
    `Ratios are to "${rows[0].server.label}".`;
}

function versionLine(versions: Versions): string {
  const number = (text?: string) =>
    text?.match(/\d+(\.\d+)+/)?.[0] ?? "not installed";
  return [
    versions.kernel,
    `${navigator.hardwareConcurrency} cores`,
    `Deno ${Deno.version.deno}`,
    `Go ${number(versions.go)}`,
    versions.cc,
    `Rust ${number(versions.cargo)}`,
    `Node ${number(versions.node)}`,
    `Bun ${number(versions.bun)}`,
    `this service at ${versions.commit ?? "an unknown commit"}`,
  ].join("; ") + ".";
}

function cells(columns: Column[], samples: Sample[], base: number[]): string[] {
  const [first, ...others] = columns.map(({ key, digits }) =>
    format(median(valuesOf(samples, key)), digits)
  );
  const ratio = ratios(valuesOf(samples, columns[0].key), base);
  const range = samples.length > 1 ? [ratio.min, ratio.max] : [NaN, NaN];
  return [
    first,
    ...[ratio.median, ...range].map((value) => format(value, 2)),
    ...others,
    `${sum(samples.map(({ exchanges }) => exchanges))}`,
    `${sum(samples.map(failureCount))}`,
  ];
}

const RATIO = ["ratio", "ratio, min", "ratio, max"];
const TOTALS = ["exchanges", "errors"];

/** The values of a column, round by round. */
export const valuesOf = (samples: Sample[], key: string) =>
  samples.map(({ values }) => values[key]);

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

export const failureCount = ({ failures }: Sample): number =>
  sum(Object.values(failures));

/** Neither a ratio to nothing nor the spread of one round is a number. */
const format = (value: number, digits: number) =>
  Number.isFinite(value) ? value.toFixed(digits) : "-";

const tableLine = (cells: string[]) => `| ${cells.join(" | ")} |`;
