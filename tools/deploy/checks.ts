/**
 * What the checks share.
 *
 * @module
 */

import { assert } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { textOf } from "../testing/bytes.ts";
import type { Need } from "../testing/needs.ts";

/** The folder of the checkout. */
export const ROOT = new URL("../..", import.meta.url).pathname;

/** The user who may make containers. */
export const AS_ROOT: Need = { name: "root", isMet: () => Deno.uid() === 0 };

/** Runs a program; returns what it printed. Throws if it fails. */
export async function run(program: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args,
    cwd: ROOT,
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const text = textOf(stdout);
  assert(success, `${program} ${args.join(" ")}: ${text}${textOf(stderr)}`);
  return text;
}

/** An object of Kubernetes, as far as the checks look at it. */
export interface KubernetesObject {
  apiVersion: string;
  kind: string;
  // deno-lint-ignore no-explicit-any
  spec: any;
}

/** Reads the objects of the manifest. */
export async function readManifest(): Promise<KubernetesObject[]> {
  // Not in the import map: the product does not need it.
  const yaml = denoJson.imports["@std/assert"].replace("/assert/", "/yaml/");
  const { parseAll } = await import(yaml);
  return parseAll(
    await Deno.readTextFile(`${ROOT}/tools/deploy/kubernetes.yaml`),
  );
}
