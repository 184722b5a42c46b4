/**
 * Compiles the binary and runs it. Where the compiler's base runtime cannot be
 * downloaded, Deno itself takes its place: that shows which files are embedded,
 * but it cannot be run as the service. `DENORT_BIN` names a base runtime.
 *
 * ```sh
 * deno run -A tools/deploy/compile_check.ts
 * ```
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { after, Child } from "../testing/child.ts";
import { folder, ROOT } from "../testing/folder.ts";
import { ServerProcess } from "../testing/command.ts";
import { digits, GREETING } from "../testing/bytes.ts";
import { ask, connect, exchange } from "../testing/clients.ts";

const BINARY = `${ROOT}/echo-server`;

/** Runs `deno task compile`. */
async function compile(env: Record<string, string>) {
  await using task = new Child([Deno.execPath(), "task", "compile"], { env });
  return { success: await task.code() === 0, report: task.stderr.text };
}

/** Checks that the binary serves as the command does. */
async function run(program: string[]): Promise<void> {
  await using version = new ServerProcess(["--version"], program);
  assertEquals(await version.code(), 0);
  assertEquals(version.stdout.all, [`echo-server ${denoJson.version}`]);

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const args = ["--port=0", "--max-bytes=8"];
    await using command = new ServerProcess(args, program);
    const port = await command.ready();
    assertEquals(await exchange(port, "hoge"), `${GREETING}hoge`);
    assertEquals(await exchange(port, digits(20)), `${GREETING}01234567`);
    using conn = await connect(port);
    command.kill(signal);
    await command.event(`shutdown signal=${signal} clients=1`);
    assertEquals(await ask(conn, "hoge"), `${GREETING}hoge`);
    assertEquals(await command.code(), 0);
    assertMatch(await command.event("summary"), / echoed=3 .* error=0$/);
  }
}

/** Checks that it refuses in one line, without a question, what it cannot. */
async function refuse(program: string[]): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const cases: [args: string, code: number, line: RegExp][] = [
    ["--cert=cert.pem --key=key.pem", 1, /--allow-read/],
    ["--unix=echo.sock", 1, /--allow-(read|write)/],
    ["--prot=30000", 2, /unknown option "--prot/],
    [`--host=127.0.0.1 --port=${listener.addr.port}`, 1, /the port is in use$/],
  ];
  const terminal = 'exec script --quiet --return --command "$*" /dev/null';
  for (const [args, code, line] of cases) {
    await using command = new ServerProcess(args.split(" "), program);
    assertEquals(await command.code(), code, args);
    assertEquals(command.stderr.all.length, 1, command.stderr.all.join("\n"));
    assertMatch(command.stderr.all[0], /^echo-server: /);
    assertMatch(command.stderr.all[0], line);

    await using inTerminal = new ServerProcess(
      args.split(" "),
      ["sh", "-c", terminal, "sh", BINARY],
    );
    assertEquals(await inTerminal.code(), code, args);
    assertEquals(inTerminal.stdout.all.length, 1);
  }
}

const withRuntime = await compile({});
try {
  if (withRuntime.success) {
    await using dir = await folder();
    const program = after(`cd "${dir.path}"`, ["env", "-i", BINARY]);
    await run(program);
    await refuse(program);
    console.log("compile: with the base runtime, run");
  } else {
    const { success, report } = await compile({ DENORT_BIN: Deno.execPath() });
    assert(success, report);
    for (const name of ["main.ts", "server.ts", "deno.json", "/deno-std/"]) {
      assert(report.includes(name), `${name} is not embedded: ${report}`);
    }
    console.log("compile: embedded, base runtime not reachable, not run");
  }
} finally {
  await Deno.remove(BINARY).catch(() => {});
}
