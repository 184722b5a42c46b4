/**
 * Shows what the kernel sees of a server: its system calls, beside the steps of
 * two clients. Linux only.
 *
 * ```sh
 * deno task trace --mode serial
 * ```
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { output } from "../testing/child.ts";
import { runMain } from "../testing/command.ts";
import { folder } from "../testing/folder.ts";
import { exists } from "../testing/needs.ts";
import { refuse, runTool, UsageError } from "../testing/run_tool.ts";
import { draw } from "./timeline_picture.ts";
import { format, type Row } from "./timeline.ts";
import { traceTwoClients } from "./two_clients.ts";

const HELP =
  `Shows a server's system calls beside the steps of a slow and a quick client.

Usage: deno task trace [options]

      --mode MODE  trace this service: concurrent, serial or events (concurrent)
      --go FILE    trace a server written in Go that prints "wait...";
                   the diary's, in tools/trace/diary, listen on port 30000
      --svg FILE   also draw the timeline
  -h, --help       print this and exit`;

export const MODES = ["concurrent", "serial", "events"];

/** Traces this service in one of its modes. */
export function traceMode(mode: string, signal?: AbortSignal): Promise<Row[]> {
  const program = [...runMain("--allow-net"), "--port", "0", "--mode", mode];
  return traceTwoClients(program, signal);
}

/** Builds a server written in Go, and traces it. */
export async function traceGo(
  file: string,
  signal?: AbortSignal,
): Promise<Row[]> {
  await using dir = await folder();
  const server = `${dir.path}/server`;
  const build = ["go", "build", "-ldflags=-s -w", "-o", server, file];
  await output(build, { env: { GOTMPDIR: dir.path }, signal });
  return await traceTwoClients([server], signal);
}

type Options = ReturnType<typeof parseOptions>;

function parseOptions(args: string[]) {
  const options = parseArgs(args, {
    string: ["mode", "go", "svg"],
    unknown: refuse,
  });
  const { mode = "concurrent", go, svg } = options;
  if (!MODES.includes(mode)) {
    const given = JSON.stringify(mode);
    throw new UsageError(`--mode: ${given} is not one of ${MODES.join(", ")}`);
  }
  if (go !== undefined && options.mode !== undefined) {
    throw new UsageError("--mode: a program in Go has no modes");
  }
  if (go === "") throw new UsageError("--go: needs a file");
  if (svg === "") throw new UsageError("--svg: needs a file");
  return options;
}

/** Checks that a program is installed. */
function need(program: string, debian: string): void {
  if (exists(program)) return;
  throw new Error(`${program} is missing: apt-get install ${debian}`);
}

async function trace(
  { mode = "concurrent", go }: Options,
  signal: AbortSignal,
): Promise<Row[]> {
  if (Deno.build.os !== "linux") {
    throw new Error(`strace needs Linux; this is ${Deno.build.os}`);
  }
  need("strace", "strace");
  need("setpriv", "util-linux");
  need("ss", "iproute2");
  if (go === undefined) return await traceMode(mode, signal);
  need("go", "golang-go");
  try {
    if (!await isFile(go)) throw new Error("no such file");
    if (!go.endsWith(".go")) throw new Error("not a .go file");
    return await traceGo(go, signal);
  } catch (error) {
    const [line] = (error as Error).message.replace(/^#.*\n/, "").split("\n");
    throw new Error(`${go}: ${line}`);
  }
}

const isFile = (path: string) =>
  Deno.stat(path).then((info) => info.isFile, () => false);

const titleOf = ({ mode = "concurrent", go }: Options) =>
  "deno task trace " +
  (go === undefined ? `--mode ${mode}` : `--go ${go.split("/").at(-1)}`);

if (import.meta.main) {
  await runTool("trace", HELP, async (args, signal) => {
    const options = parseOptions(args);
    const rows = await trace(options, signal);
    console.log(format(rows));
    if (options.svg !== undefined) {
      await Deno.writeTextFile(options.svg, draw(titleOf(options), rows));
    }
    return 0;
  });
}
