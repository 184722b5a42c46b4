import { assert, assertEquals } from "@std/assert";
import { needs } from "./needs.ts";

const root = new URL("../..", import.meta.url);

/** Everything that the test files of a folder say, below it too. */
function testsBelow(folder: URL): string {
  let text = "";
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const url = new URL(name, folder);
    if (isDirectory && !name.startsWith(".")) {
      text += testsBelow(new URL(`${url}/`));
    } else if (name.endsWith("_test.ts")) text += Deno.readTextFileSync(url);
  }
  return text;
}

needs(["read"], [], "docs/promises.md names tests that exist", async () => {
  const docs = await Deno.readTextFile(new URL("docs/promises.md", root));
  const [promises] = docs.split("## What it cannot promise");
  const sources = testsBelow(root);
  const items = promises.split(/^- /m).slice(1);
  assert(items.length > 20, `${items.length} promises`);
  for (const item of items) {
    const [promise, tests = ""] = item.replaceAll(/\s+/g, " ").split(
      " Tests: ",
    );
    const titles = [...tests.matchAll(/`(.+?)`/g)].map(([, title]) => title);
    assert(titles.length > 0, `no test: ${promise}`);
    // The beginning of a title may depend on the transport or the signal.
    const unknown = titles.filter((title) =>
      !sources.includes(`${title}"`) && !sources.includes(`${title}\``)
    );
    assertEquals(unknown, [], promise);
  }
});
