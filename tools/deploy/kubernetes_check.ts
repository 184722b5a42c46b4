/** The manifest for Kubernetes, against the published schemas. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { output } from "../testing/child.ts";
import { folder } from "../testing/folder.ts";
import { needs } from "../testing/needs.ts";
import { type KubernetesObject, readManifest } from "./manifest.ts";

const SCHEMAS = "npm:kubernetes-models@5.1.0";

const withSchemas = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read", "write", "env"], [], `Kubernetes: ${name}`, fn);

/**
 * Validates objects in a program of its own: a schema refuses what is missing
 * or wrong, and a type refuses keys that it does not know.
 */
async function validate(objects: KubernetesObject[]): Promise<void> {
  const lines = objects.map(({ apiVersion, kind, ...rest }) =>
    `import { ${kind} } from "${SCHEMAS}/${apiVersion}/${kind}";
    new ${kind}(${JSON.stringify(rest)}).validate();`
  );
  await using dir = await folder();
  const file = `${dir.path}/validate.ts`;
  await Deno.writeTextFile(file, lines.join("\n"));
  const flags = ["--check", "--no-config", "--no-lock", "--quiet"];
  await output([Deno.execPath(), "run", ...flags, file]);
}

withSchemas("the manifest fits the schemas", async () => {
  const objects = await readManifest();
  const kinds = ["Deployment", "Service", "PodDisruptionBudget"];
  assertEquals(objects.map(({ kind }) => kind), kinds);
  await validate(objects);
});

withSchemas("a key that is misspelled or missing is found", async () => {
  const [deployment] = await readManifest();
  const [container] = deployment.spec.template.spec.containers;
  container.startupprobe = container.startupProbe;
  await assertRejects(() => validate([deployment]), Error, "startupprobe");
  delete container.startupprobe;
  delete container.name;
  await assertRejects(() => validate([deployment]), Error, "name");
});

withSchemas("what has to agree in the manifest agrees", async () => {
  const [deployment, service, budget] = await readManifest();
  const { template, selector } = deployment.spec;
  const labels = template.metadata.labels;
  assertEquals(selector.matchLabels, labels);
  assertEquals(service.spec.selector, labels);
  assertEquals(budget.spec.selector.matchLabels, labels);

  const { containers, terminationGracePeriodSeconds } = template.spec;
  const { args, ports, lifecycle } = containers[0];
  assert(args.includes(`--port=${ports[0].containerPort}`));
  const grace = Number(args.join(" ").match(/--grace=(\d+)/)[1]);
  const pause = lifecycle.preStop.sleep.seconds;
  assert(terminationGracePeriodSeconds > pause + grace + 1);
});
