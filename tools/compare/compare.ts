/**
 * Compares echo servers side by side: each in turn runs on one processor while
 * a load generator on another checks every byte of every exchange.
 *
 * ```sh
 * deno task compare --help
 * ```
 *
 * @module
 */

import { output } from "../testing/child.ts";
import { folder } from "../testing/folder.ts";
import { runTool } from "../testing/run_tool.ts";
import { describeFailures, Meter, pinned, PROCESSORS } from "./measure.ts";
import { HELP, type Options, parseOptions } from "./options.ts";
import { draw } from "./chart.ts";
import { type Comparison, failureCount, toMarkdown } from "./report.ts";
import { cc, prepare, type Server } from "./servers.ts";
import { firstLine, readVersions } from "./versions.ts";

/** Compares the servers that were asked for. */
async function compare(
  options: Options,
  signal: AbortSignal,
): Promise<Comparison> {
  await checkMachine(signal);
  const versions = await readVersions(signal);
  if (versions.cc === undefined) throw new Error("needs cc");

  await using tempDir = await folder();
  const generator = await buildGenerator(tempDir.path, signal);
  const servers = await prepare(options, versions, tempDir.path, signal);
  if (servers.length === 0) throw new Error("no server is left to measure");
  const meter = new Meter(generator, options, signal);
  const rows = await measureAll(servers, meter, options.rounds);
  return { options, versions, rows };
}

/** The servers take turns: A B C A B C. */
async function measureAll(
  servers: Server[],
  meter: Meter,
  rounds: number,
): Promise<Comparison["rows"]> {
  const rows: Comparison["rows"] = servers
    .map((server) => ({ server, samples: [] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { server, samples } of rows) {
      console.error(`round ${round} of ${rounds}: ${server.name}`);
      samples.push(await meter.measure(server));
    }
  }
  return rows;
}

async function checkMachine(signal: AbortSignal): Promise<void> {
  for (const processor of Object.values(PROCESSORS)) {
    if (await firstLine(pinned(processor, "true"), signal) === undefined) {
      throw new Error("needs Linux, setpriv, taskset, and processors 0 and 1");
    }
  }
}

async function buildGenerator(
  dir: string,
  signal: AbortSignal,
): Promise<string> {
  const binary = `${dir}/echoload`;
  await output(cc(binary, "echoload.c"), { signal, env: { TMPDIR: dir } });
  return binary;
}

async function print(
  comparison: Comparison,
  signal: AbortSignal,
): Promise<void> {
  const format = [Deno.execPath(), "fmt", "--ext", "md", "-"];
  const table = await output(format, { signal }, toMarkdown(comparison));
  console.log(table.trimEnd());
}

/** Names the servers that failed exchanges; returns whether there are any. */
function reportFailures({ rows }: Comparison): boolean {
  let any = false;
  for (const { server, samples } of rows) {
    for (const { failures } of samples.filter(failureCount)) {
      any = true;
      console.error(`compare: ${server.name}: ${describeFailures(failures)}`);
    }
  }
  return any;
}

await runTool("compare", HELP, async (args, signal) => {
  const options = parseOptions(args);
  const comparison = await compare(options, signal);
  await print(comparison, signal);
  if (options.svg !== undefined) {
    await Deno.writeTextFile(options.svg, draw(comparison));
  }
  return reportFailures(comparison) ? 1 : 0;
});
