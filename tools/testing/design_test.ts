import { assert, assertEquals } from "@std/assert";
import { needs } from "./needs.ts";

const root = new URL("../..", import.meta.url);
const read = (path: string) => Deno.readTextFileSync(new URL(path, root));

/** The lines of a text, without blank ones and without indentation. */
const linesOf = (text: string) =>
  text.split("\n").map((line) => line.trim()).filter((line) => line !== "");

needs(["read"], [], "docs/design.md quotes the code as it is", async () => {
  const page = await Deno.readTextFile(new URL("docs/design.md", root));
  const excerpts = [...page.matchAll(/^```ts ignore\n([^]*?)^```$/gm)];
  assert(excerpts.length > 5, `${excerpts.length} excerpts`);
  const sources = ["server.ts", "main.ts", "tools/compare/peers/naive.ts"]
    .map((path) => `\n${linesOf(read(path)).join("\n")}\n`);
  for (const [, excerpt] of excerpts) {
    const text = `\n${linesOf(excerpt).join("\n")}\n`;
    assert(sources.some((source) => source.includes(text)), excerpt);
  }
});

needs(["read"], [], "docs/design.md explains every constant", async () => {
  const page = await Deno.readTextFile(new URL("docs/design.md", root));
  const [, constants] = read("server.ts").split("// docs/design.md shows ");
  const [head] = constants.split("\nclass ");
  const names = [...head.matchAll(/^const ([A-Z_]+)/gm)].map(([, name]) => name)
    .filter((name) => !["MODES", "MAX_MS"].includes(name)); // say it all
  assert(names.length > 5, `${names.length} constants`);
  assertEquals(names.filter((name) => !page.includes(`\`${name}`)), []);
});
