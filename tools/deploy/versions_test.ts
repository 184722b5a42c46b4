/** The versions that the files for a deployment name. */

import { assert, assertEquals } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { readFile } from "../testing/folder.ts";
import { needs } from "../testing/needs.ts";

/** Everything in these files that the pattern's group matches. */
async function find(pattern: RegExp, ...paths: string[]): Promise<string[]> {
  const texts = await Promise.all(paths.map(readFile));
  const found = texts.map((text) =>
    [...text.matchAll(pattern)].map((match) => match[1])
  );
  paths.forEach((path, i) => assert(found[i].length > 0, path));
  return found.flat();
}

needs(
  ["read"],
  [],
  "versions: the image has the Deno of the README",
  async () => {
    const [pinned] = await find(
      /^VERSION=\$\{DENO_VERSION:-(.*)\}$/gm,
      ".ci/run",
    );
    const versions = [
      ...await find(/^ARG DENO_VERSION=(.*)$/gm, "tools/deploy/Containerfile"),
      ...await find(/ deno@([\d.]+)/g, "README.md"),
    ];
    assertEquals([...new Set(versions)], [pinned]);
  },
);

needs(
  ["read"],
  [],
  "versions: the image is named like the release",
  async () => {
    const tags = await find(
      /localhost\/echo-server:([\d.]+)/g,
      "docs/deployment.md",
      "tools/deploy/Containerfile",
      "tools/deploy/kubernetes.yaml",
    );
    assertEquals([...new Set(tags)], [denoJson.version]);
  },
);
