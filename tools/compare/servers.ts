/**
 * The servers to compare, and how to build and start them.
 *
 * @module
 */

import { output } from "../testing/child.ts";
import { runMain, runTask } from "../testing/command.ts";
import type { Versions } from "./versions.ts";

export interface Server {
  name: string;
  /** What the table calls it. */
  label: string;
  /** Starts it; `{port}` stands for the port. */
  command: string[];
  /** The program that must be installed to build or start it. */
  tool?: keyof Versions;
  /** Builds it. */
  build?: string[];
}

/** The names of the built-in servers. */
export const NAMES = builtIn("").map(({ name }) => name);

/** The command that builds a C source of this directory. */
export function cc(binary: string, source: string): string[] {
  return ["cc", "-O2", "-o", binary, `${import.meta.dirname}/${source}`];
}

/** Builds the server in Rust from a copy: cargo writes beside the sources. */
function cargo(dir: string): string[] {
  const build = 'cp -r "$0" "$1" && cargo build --release --quiet ' +
    '--manifest-path "$1/tokio/Cargo.toml" --target-dir "$1"';
  return ["sh", "-c", build, `${import.meta.dirname}/peers/tokio`, dir];
}

/** Go comes first: it is what the others are compared with. */
function builtIn(dir: string): Server[] {
  const deno = Deno.execPath();
  const peers = `${import.meta.dirname}/peers`;
  return [{
    name: "go",
    label: "Go, goroutines",
    tool: "go",
    build: ["go", "build", "-o", `${dir}/go`, `${peers}/goroutine.go`],
    command: [`${dir}/go`, "{port}"],
  }, {
    name: "epoll",
    label: "C, epoll",
    tool: "cc",
    build: cc(`${dir}/epoll`, "peers/epoll.c"),
    command: [`${dir}/epoll`, "{port}"],
  }, {
    name: "tokio",
    label: "Rust, tokio, one thread",
    tool: "cargo",
    build: cargo(dir),
    command: [`${dir}/release/tokio-echo`, "{port}", "current_thread"],
  }, {
    name: "tokio-multi",
    label: "Rust, tokio, multi-thread",
    tool: "cargo",
    build: cargo(dir),
    command: [`${dir}/release/tokio-echo`, "{port}", "multi_thread"],
  }, {
    name: "node",
    label: "Node, `node:net`",
    tool: "node",
    command: ["node", `${peers}/node.mjs`, "{port}"],
  }, {
    name: "bun",
    label: "Bun, `Bun.listen`",
    tool: "bun",
    command: ["bun", `${peers}/bun.js`, "{port}"],
  }, {
    name: "naive",
    label: "Deno, minimal",
    command: [deno, "run", "--allow-net", `${peers}/naive.ts`, "{port}"],
  }, {
    name: "service",
    label: "this service",
    command: [...runMain("--allow-net"), "--port", "{port}"],
  }, {
    name: "start",
    label: "this service, `deno task start`",
    command: [...runTask("start"), "--port", "{port}"],
  }];
}

/** The servers that were asked for, as far as this machine can run them. */
export async function prepare(
  wanted: { only: string[]; with: Map<string, string> },
  versions: Versions,
  dir: string,
  signal: AbortSignal,
): Promise<Server[]> {
  const servers: Server[] = [];
  for (const server of builtIn(dir)) {
    if (!wanted.only.includes(server.name)) continue;
    const why = await obstacle(server, versions, dir, signal);
    if (why === undefined) servers.push(server);
    else console.error(`compare: ${server.name}: ${why}, skipped`);
  }
  for (const [name, command] of wanted.with) {
    servers.push({ name, label: name, command: ["sh", "-c", command] });
  }
  return servers;
}

/** Builds the server, if need be; returns why it cannot run. */
async function obstacle(
  { tool, build }: Server,
  versions: Versions,
  dir: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (tool !== undefined && versions[tool] === undefined) {
    return "not installed";
  }
  if (build === undefined) return undefined;
  try {
    await output(build, { signal, env: { TMPDIR: dir } });
    return undefined;
  } catch (error) {
    signal.throwIfAborted();
    return `does not build: ${(error as Error).message.split("\n")[0]}`;
  }
}
