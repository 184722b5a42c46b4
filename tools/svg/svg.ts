/**
 * Pictures in SVG. trace/ and compare/ import from this room; it imports from
 * none.
 *
 * @module
 */

/** Pictures fit a phone, and two beside each other fit a page. */
export const WIDTH = 440;

const STYLE = `
svg { --paper: #fff; --ink: #1f2328; --quiet: #59636e; --rule: #d1d9e0;
  --one: #0969da; --two: #bc4c00; --bar: #818b98 }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #f0f6fc; --quiet: #9198a1; --rule: #3d444d;
    --one: #4493f8; --two: #f0883e; --bar: #656c76 }
}
text { font: 13px system-ui, sans-serif; fill: var(--ink) }
.title { font-size: 15px; font-weight: 600 }
.strong { font-weight: 600 }
.quiet { font-size: 12px; fill: var(--quiet) }
.code { font: 12px ui-monospace, monospace }
.end { text-anchor: end }
.paper { fill: var(--paper); stroke: var(--rule) }
.bar { fill: var(--bar) }
.one { fill: var(--one) }
.two { fill: var(--two) }
.pale { fill-opacity: .35 }
.spread { stroke: var(--ink); stroke-width: 1.5 }
.dashed { stroke: var(--quiet); stroke-dasharray: 3 3 }
`;

const escape = (text: string) =>
  text.replace(/[<>&]/g, (character) => `&#${character.charCodeAt(0)};`);

/** A text; `look` are its classes in the style above. */
export const text = (x: number, y: number, what: string, look = "") =>
  `<text x="${x}" y="${y}" class="${look}">${escape(what)}</text>`;

export const box = (x: number, y: number, w: number, h: number, look: string) =>
  `<rect x="${x}" y="${y}" width="${w}" height="${h}" rx="3" class="${look}"/>`;

export const line = (x: number, y: number, x2: number, y2: number, look = "") =>
  `<line x1="${x}" y1="${y}" x2="${x2}" y2="${y2}" class="${look}"/>`;

/** A whole picture, with a title above and a note below. */
export const picture = (
  title: string,
  note: string,
  h: number,
  body: string[],
) =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${h}" ` +
  `width="${WIDTH}" height="${h}" role="img">
<title>${escape(title)}</title>
<style>${STYLE}</style>
${box(0.5, 0.5, WIDTH - 1, h - 1, "paper")}
${text(16, 28, title, "title")}
${body.join("\n")}
${text(16, h - 16, note, "quiet")}
</svg>
`;
