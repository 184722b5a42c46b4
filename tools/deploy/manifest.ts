/**
 * Reads the manifest for Kubernetes.
 *
 * @module
 */

import denoJson from "../../deno.json" with { type: "json" };
import { readFile } from "../testing/folder.ts";

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
  return parseAll(readFile("tools/deploy/kubernetes.yaml"));
}
