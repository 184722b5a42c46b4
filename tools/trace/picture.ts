/**
 * The timeline as a picture.
 *
 * @module
 */

import { drawLanes, type Mark, type Span } from "../picture/lanes.ts";
import type { Row } from "./timeline.ts";

const CLIENTS = [
  { name: "client 1", key: "client1", look: "one", x: 46, service: 336 },
  { name: "client 2", key: "client2", look: "two", x: 166, service: 352 },
] as const;
const QUEUE = { title: "queue", x: 288 };
const CALLS = 370;
const SHOWN = /: (accepted|the greeting|what it sent|the echo|send EOF|closed)/;

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
      { x: QUEUE.x, from: time("connects"), to: time("accepted"), look },
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
  return drawLanes(
    title,
    "Pale: not greeted yet. Pauses are to scale.",
    [
      ...CLIENTS.map(({ name, x }) => ({ title: name, x })),
      { ...QUEUE, x: QUEUE.x - 12 },
      { title: "service", x: CLIENTS[0].service },
    ],
    spans,
    marks,
  );
}

/** What a client says and hears, as arrows to and from the service. */
const arrow = (step: string) =>
  step.replace(/^sends "(.*)"/, "$1 →").replace(/^gets "?([^"]*)"?/, "← $1");
