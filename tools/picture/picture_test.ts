import { assert, assertEquals } from "@std/assert";
import { drawBars } from "./bars.ts";
import { drawLanes } from "./lanes.ts";

type Element = { name: string; text: string } & Record<string, string>;

/** Reads XML that is well-formed; the text of an element is what follows it. */
function parse(xml: string): Element[] {
  const elements: Element[] = [];
  const open: string[] = [];
  for (
    const [, end, name, attributes, empty, text, rest] of xml.matchAll(
      /<(\/?)([a-z]+)((?: [\w:]+="[^"<&]*")*)(\/?)>((?:[^<>&]|&#\d+;)*)|([^])/g,
    )
  ) {
    assertEquals(rest, undefined, xml);
    if (end) {
      assertEquals(name, open.pop());
      continue;
    }
    if (!empty) open.push(name);
    elements.push({
      ...Object.fromEntries(
        [...attributes.matchAll(/([\w:]+)="(.*?)"/g)].map(([, k, v]) => [k, v]),
      ),
      name,
      text: text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code)),
    });
  }
  assertEquals(open, []);
  assertEquals(elements[0].name, "svg");
  return elements;
}

const texts = (elements: Element[]) =>
  elements.filter(({ name }) => name === "text").map(({ text }) => text);

/** The boxes of a look. */
const boxes = (elements: Element[], look: string) =>
  elements.filter((element) => element.class === look);

/** Nothing in a picture runs, and nothing is loaded. */
function assertInert(svg: string, elements: Element[]): void {
  const names = new Set(elements.map(({ name }) => name));
  for (const name of ["svg", "title", "style", "rect", "line", "text"]) {
    names.delete(name);
  }
  assertEquals([...names], []);
  assert(!/ on\w+=|href|url\(|@import/.test(svg));
  assertEquals(svg.match(/https?:[^"]*/g), ["http://www.w3.org/2000/svg"]);
}

const TITLE = 'a <script> & "b"';

Deno.test("picture: lanes show who waits, and for how long", () => {
  const svg = drawLanes(
    TITLE,
    "note",
    [{ x: 50, title: "lane 1" }, { x: 150, title: "lane 2" }],
    [
      { x: 50, from: 1000, to: 1020, look: "one" },
      { x: 150, from: 1010, to: 1020, look: "two" },
      { x: 150, from: 1020, to: 1020, look: "pale" },
    ],
    [
      { x: 50, from: 1000, text: "<begins>" },
      { x: 50, from: 1000.1, text: "goes on" },
      { x: 150, from: 1010, to: 1020, text: "waits" },
    ],
  );
  const elements = parse(svg);
  assertInert(svg, elements);
  assertEquals(
    texts(elements),
    [TITLE, "ms", "lane 1", "lane 2", "0", "10", "20", "<begins>", "goes on"]
      .concat("waits", "note"),
  );
  const [one, two, pale] = ["one", "two", "pale"]
    .map((look) => boxes(elements, look)[0]);
  assertEquals(Number(two.height), 110, "the longest pause");
  const bottom = ({ y, height }: Element) => Number(y) + Number(height);
  assertEquals(bottom(one), bottom(two));
  assert(Number(pale.height) > 0, "a short one can be seen");
  const [first, second, middle] = ["<begins>", "goes on", "waits"]
    .map((text) => Number(elements.find((one) => one.text === text)!.y));
  assert(second >= first + 17, "texts are not on top of each other");
  assertEquals(middle, Number(two.y) + 55 + 4);
});

Deno.test("picture: bars show values and their spread", () => {
  const values = [
    { min: 1, median: 1, max: 1 },
    { min: 0.5, median: 2, max: 4 },
    { min: NaN, median: Infinity, max: NaN },
  ];
  const svg = drawBars(
    TITLE,
    "note",
    ["Go", "C & co", "own"].map((label) => ({ label, own: label === "own" })),
    [
      { title: "time", digits: 2, reference: 1, values },
      { title: "p99", digits: 0, values },
    ],
  );
  const elements = parse(svg);
  assertInert(svg, elements);
  assertEquals(
    texts(elements),
    [TITLE, "Go", "C & co", "own", "time", "1.00", "2.00", "-", "p99", "1", "2"]
      .concat("-", "note"),
  );
  assert(!/NaN|Infinity|undefined/.test(svg));
  const [go, c] = boxes(elements, "bar");
  assertEquals(Number(c.width), 2 * Number(go.width));
  assertEquals(boxes(elements, "one").map(({ width }) => width), ["0", "0"]);
  const spread = boxes(elements, "spread")[1];
  assertEquals(Number(spread.x1) - Number(c.x), Number(c.width) / 4);
  assertEquals(Number(spread.x2) - Number(c.x), Number(c.width) * 2);
  assertEquals(boxes(elements, "dashed").length, 3);
});
