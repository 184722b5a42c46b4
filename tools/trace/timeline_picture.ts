/**
 * The timeline as a picture: lanes side by side, with time running down.
 *
 * @module
 */

import { box, picture, text } from "../svg/svg.ts";
import type { Row } from "./timeline.ts";

/** A bar in a lane. Times are in milliseconds. */
interface Span {
  x: number;
  from: number;
  to: number;
  look: string;
}

/** A text in a lane, at a moment or in the middle of a pause. */
interface Mark {
  x: number;
  from: number;
  to?: number;
  text: string;
  look?: string;
}

const CLIENTS = [
  { name: "client 1", key: "client1", look: "one", x: 46, service: 336 },
  { name: "client 2", key: "client2", look: "two", x: 166, service: 352 },
] as const;
const QUEUE = 288;
const CALLS = 370;
const SHOWN = /: (accepted|the greeting|what it sent|the echo|send EOF|closed)/;
/** How far texts in one lane must be apart. */
const STEP = 17;
/** How long the longest pause is drawn. The others are to its scale. */
const PAUSE = 110;

/** Draws the timeline that `format` prints, from the first client on. */
export function draw(title: string, rows: Row[]): string {
  const sorted = rows.toSorted((a, b) => a.time - b.time);
  const end = sorted.at(-1)!.time;
  const spans: Span[] = [];
  const marks: Mark[] = [];
  for (const { name, key, look, x, service } of CLIENTS) {
    const time = (step: string) =>
      sorted.find(({ [key]: did, why }) =>
        did?.startsWith(step) || why === `${name}: ${step}`
      )?.time ?? end;
    spans.push(
      { x, from: time("connects"), to: time("gets"), look: `${look} pale` },
      { x, from: time("gets"), to: time("gets EOF"), look },
      { x: QUEUE, from: time("connects"), to: time("accepted"), look },
      { x: service, from: time("accepted"), to: time("closed"), look },
    );
    for (const { time, [key]: did, service, why } of sorted) {
      if (/^(connects|sends|gets)/.test(did ?? "")) {
        marks.push({ x: x + 18, from: time, text: arrow(did!) });
      } else if (why?.startsWith(name) && SHOWN.test(why)) {
        const call = service!.split("(")[0];
        marks.push({ x: CALLS, from: time, text: call, look: `code ${look}` });
      }
    }
  }
  // What happens until client 1 says something.
  const said = marks.filter(({ text }) => text.endsWith("→"));
  const [from, to] = said.map(({ from }) => from).sort((a, b) => a - b);
  const pause = { from, to, look: "quiet" };
  marks.push({ ...pause, x: CLIENTS[0].x + 18, text: "silent" });
  if (sorted.some(({ client2 }) => client2?.startsWith("waits"))) {
    marks.push(
      { ...pause, x: CLIENTS[1].x + 18, text: "waits", look: "two strong" },
      { ...pause, x: CALLS, text: "sleeps" },
    );
  }
  return drawLanes(title, spans, marks);
}

/** What a client says and hears, as arrows to and from the service. */
const arrow = (step: string) =>
  step.replace(/^sends "(.*)"/, "$1 →").replace(/^gets "?([^"]*)"?/, "← $1");

function drawLanes(title: string, spans: Span[], marks: Mark[]): string {
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
  const note = "Pale: not greeted yet. Pauses are to scale.";
  return picture(title, note, Math.round(y) + 52, [
    text(36, 56, "ms", "quiet end"),
    ...CLIENTS.map(({ name, x }) => text(x, 56, name, "strong")),
    text(QUEUE - 12, 56, "queue", "strong"),
    text(CLIENTS[0].service, 56, "service", "strong"),
    ...spans.map(({ x, from, to, look }) =>
      box(x, at(from), 12, Math.max(at(to) - at(from), 3), look)
    ),
    ...[...clock, ...marks].map(({ x, from, to = from, text: what, look }) =>
      text(x, (at(from) + at(to)) / 2 + 4, what, look)
    ),
  ]);
}
