/** A picture of lanes side by side, with time running down. */

import { box, picture, text } from "./svg.ts";

/** A bar in a lane. Times are in milliseconds. */
export interface Span {
  x: number;
  from: number;
  to: number;
  look: string;
}

/** A text in a lane, at a moment or in the middle of a pause. */
export interface Mark {
  x: number;
  from: number;
  to?: number;
  text: string;
  look?: string;
}

/** How far texts in one lane must be apart. */
const STEP = 17;
/** How long the longest pause is drawn. The others are to its scale. */
const PAUSE = 110;

export function drawLanes(
  title: string,
  note: string,
  lanes: { x: number; title: string }[],
  spans: Span[],
  marks: Mark[],
): string {
  const all = [...spans, ...marks].flatMap(({ from, to = from }) => [from, to]);
  const times = [...new Set(all)].sort((a, b) => a - b);
  const pauses = times.map((time, i) => time - (times[i - 1] ?? time));
  const scale = PAUSE / Math.max(...pauses);
  const heights = new Map<number, number>();
  const taken = new Map<number, number>(); // by lane
  let y = 80;
  times.forEach((time, i) => {
    y += pauses[i] * scale;
    for (const { x, from, to } of marks) {
      if (from !== time || to !== undefined) continue;
      y = Math.max(y, (taken.get(x) ?? 0) + STEP);
      taken.set(x, y);
    }
    heights.set(time, Math.round(y));
  });
  const at = (time: number) => heights.get(time)!;
  const clock: Mark[] = [];
  for (const from of times) {
    const ms = (from - times[0]).toFixed(0);
    const last = clock.at(-1);
    if (last && (last.text === ms || at(from) < at(last.from) + STEP)) continue;
    clock.push({ x: 36, from, text: ms, look: "quiet end" });
  }
  return picture(title, note, Math.round(y) + 52, [
    text(36, 56, "ms", "quiet end"),
    ...lanes.map(({ x, title }) => text(x, 56, title, "strong")),
    ...spans.map(({ x, from, to, look }) =>
      box(x, at(from), 12, Math.max(at(to) - at(from), 3), look)
    ),
    ...[...clock, ...marks].map(({ x, from, to = from, text: what, look }) =>
      text(x, (at(from) + at(to)) / 2 + 4, what, look)
    ),
  ]);
}
