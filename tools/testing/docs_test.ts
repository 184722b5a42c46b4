/** What the documents say of the code, the tests and the versions. */

import { assert, assertEquals } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { readFile, ROOT } from "./folder.ts";
import { needs } from "./needs.ts";

const withDocuments = (name: string, fn: () => void) =>
  needs(["read"], [], name, fn);

/** Everything in a text that the pattern's group matches. */
const find = (pattern: RegExp, text: string) =>
  [...text.matchAll(pattern)].map(([, found]) => found);

// --------------------------------------------------------------- docs/design.md

/** The lines of a text, without blank ones and without indentation. */
const linesOf = (text: string) =>
  text.split("\n").map((line) => line.trim()).filter((line) => line !== "");

withDocuments("docs/design.md quotes the code as it is", () => {
  const excerpts = find(
    /^```ts ignore\n([^]*?)^```$/gm,
    readFile("docs/design.md"),
  );
  assert(excerpts.length > 5, `${excerpts.length} excerpts`);
  const sources = ["server.ts", "main.ts", "tools/compare/peers/naive.ts"]
    .map((path) => `\n${linesOf(readFile(path)).join("\n")}\n`);
  for (const excerpt of excerpts) {
    const text = `\n${linesOf(excerpt).join("\n")}\n`;
    assert(sources.some((source) => source.includes(text)), excerpt);
  }
});

withDocuments("docs/design.md explains every constant", () => {
  const page = readFile("docs/design.md");
  const [, constants] = readFile("server.ts").split("// docs/design.md shows ");
  const names = find(/^const ([A-Z_]+)/gm, constants.split("\nclass ")[0])
    .filter((name) => !["MODES", "MAX_MS"].includes(name)); // say it all
  assert(names.length > 5, `${names.length} constants`);
  assertEquals(names.filter((name) => !page.includes(`\`${name}`)), []);
});

// ------------------------------------------------------------- docs/promises.md

/** Everything that the test files of a folder say, below it too. */
function testsBelow(folder: string): string {
  let text = "";
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory && !name.startsWith(".")) text += testsBelow(path);
    else if (name.endsWith("_test.ts")) text += Deno.readTextFileSync(path);
  }
  return text;
}

withDocuments("docs/promises.md names tests that exist", () => {
  const [promises] = readFile("docs/promises.md").split(
    "## What it cannot promise",
  );
  const sources = testsBelow(ROOT);
  const items = promises.split(/^- /m).slice(1);
  assert(items.length > 20, `${items.length} promises`);
  for (const item of items) {
    const [promise, tests = ""] = item.replaceAll(/\s+/g, " ").split(
      " Tests: ",
    );
    const titles = find(/`(.+?)`/g, tests);
    assert(titles.length > 0, `no test: ${promise}`);
    // The beginning of a title may depend on the transport or the signal.
    const unknown = titles.filter((title) =>
      !sources.includes(`${title}"`) && !sources.includes(`${title}\``)
    );
    assertEquals(unknown, [], promise);
  }
});

// ---------------------------------------------------------------- the versions

/** Asserts that each of the files has the version, and no other. */
function assertVersion(version: string, files: [path: string, at: RegExp][]) {
  for (const [path, at] of files) {
    assertEquals([...new Set(find(at, readFile(path)))], [version], path);
  }
}

withDocuments("versions: the image has the Deno of the README", () => {
  const pinned = /^VERSION=\$\{DENO_VERSION:-(.*)\}$/gm;
  const [version] = find(pinned, readFile(".ci/run"));
  assertVersion(version, [
    ["tools/deploy/Containerfile", /^ARG DENO_VERSION=(.*)$/gm],
    ["README.md", / deno@([\d.]+)/g],
  ]);
});

withDocuments("versions: the image is named like the release", () => {
  const tag = /localhost\/echo-server:([\d.]+)/g;
  assertVersion(denoJson.version, [
    ["docs/deployment.md", tag],
    ["tools/deploy/Containerfile", tag],
    ["tools/deploy/kubernetes.yaml", tag],
  ]);
});
