/**
 * Compiles the binary and checks it. Where the compiler's base runtime cannot
 * be downloaded, Deno itself takes its place: that shows that everything is
 * embedded, but it cannot be run as the service.
 *
 * ```sh
 * deno run -A tools/deploy/compile_check.ts
 * ```
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { ServerProcess } from "../testing/processes.ts";
import { GREETING, textOf } from "../testing/bytes.ts";
import { exchange } from "../testing/clients.ts";

const root = new URL("../..", import.meta.url);
const binary = new URL(
  Deno.build.os === "windows" ? "echo-server.exe" : "echo-server",
  root,
);

async function compile(env: Record<string, string>): Promise<string> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "compile"],
    cwd: root,
    env,
  }).output();
  return success ? "" : textOf(stderr);
}

/** The binary is there: it must answer, know its version and end cleanly. */
async function run(): Promise<void> {
  await using version = new ServerProcess(["--version"], [binary.pathname]);
  assertEquals(await version.code(), 0);
  assertEquals(version.stdout.all, [`echo-server ${denoJson.version}`]);

  await using command = new ServerProcess(["--port", "0"], [binary.pathname]);
  const port = await command.ready();
  assertEquals(await exchange(port, "hoge"), `${GREETING}hoge`);
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertMatch(await command.event("summary"), /echoed=1 .* error=0$/);
}

/** The binary cannot be run: its files and its permission must be inside. */
async function inspect(): Promise<void> {
  const bytes = await Deno.readFile(binary);
  const text = new TextDecoder("latin1").decode(bytes);
  for (const name of ["main.ts", "server.ts", "deno.json"]) {
    const source = await Deno.readTextFile(new URL(name, root));
    assert(text.includes(source.slice(0, 500)), `${name} is not embedded`);
  }
  assert(text.includes(`"version": "${denoJson.version}"`), "no version");
  assertMatch(text, /"v8_flags":\[[^\]]*"--max-semi-space-size=2"/);
  const json = text.match(/"permissions":(\{"allow_env".*?\})/)?.[1];
  const permissions = JSON.parse(json ?? "{}");
  const granted = Object.keys(permissions)
    .filter((name) =>
      permissions[name] !== null && permissions[name] !== false
    );
  // allow_import is where code may come from, and this program loads none.
  assertEquals(granted, ["allow_net", "allow_import"]);
}

const failed = await compile({});
try {
  if (failed === "") {
    await run();
    console.log("compile: with the base runtime, run");
  } else {
    assertEquals(await compile({ DENORT_BIN: Deno.execPath() }), "");
    await inspect();
    console.log("compile: embedded, base runtime not reachable, not run");
  }
} finally {
  await Deno.remove(binary).catch(() => {});
}
