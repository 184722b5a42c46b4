/** The options: which are accepted, and how the others are refused. */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { after } from "../testing/child.ts";
import { parseOptions } from "../../main.ts";
import { runMain, ServerProcess } from "../testing/command.ts";
import { readFile } from "../testing/folder.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import { withCommand } from "../testing/needs.ts";
import { Random } from "../testing/random.ts";
import { retry, stopwatch } from "../testing/timing.ts";

Deno.test("options: the defaults", () => {
  assertEquals(parseOptions([]), {
    port: 30000,
    host: "0.0.0.0",
    greeting: bytesOf(GREETING),
    maxBytes: 1024,
    timeout: 60_000,
    maxConnections: Infinity,
    mode: "concurrent",
    grace: 10_000,
    reusePort: false,
    verbose: false,
    json: false,
    help: false,
    version: false,
  });
});

Deno.test("options: every way to write a value", () => {
  const accepted: [string[], Record<string, unknown>][] = [
    [["-p", "0"], { port: 0 }],
    [["-p0"], { port: 0 }],
    [["-p=7"], { port: 7 }],
    [["--port", "65535"], { port: 65535 }],
    [["--port=007"], { port: 7 }],
    [["--host", "::1"], { host: "::1" }],
    [["--host=localhost"], { host: "localhost" }],
    [["--greeting", ""], { greeting: bytesOf("") }],
    [["--greeting="], { greeting: bytesOf("") }],
    [["--greeting", "-v"], { greeting: bytesOf("-v") }],
    [["--greeting", "--port=1"], { greeting: bytesOf("--port=1") }],
    [["--greeting", "a=b c\né"], { greeting: bytesOf("a=b c\né") }],
    [
      ["--greeting", String.raw`\r\n\t\0\\n\xfF\x00é`],
      { greeting: new Uint8Array([13, 10, 9, 0, 92, 110, 255, 0, 195, 169]) },
    ],
    [["--max-bytes", "1"], { maxBytes: 1 }],
    [["--max-bytes", "1073741824"], { maxBytes: 2 ** 30 }],
    [["--timeout", "0"], { timeout: 0 }],
    [["--timeout", "0.25"], { timeout: 250 }],
    [["--timeout", ".5"], { timeout: 500 }],
    [["--timeout", "2.01"], { timeout: 2010 }],
    [["--timeout", "2147483"], { timeout: 2_147_483_000 }],
    [["--max-connections", "1"], { maxConnections: 1 }],
    [["--max-connections", "none"], { maxConnections: Infinity }],
    [["--mode", "serial"], { mode: "serial" }],
    [["--mode=events"], { mode: "events" }],
    [["--grace", "0"], { grace: 0 }],
    [["--reuse-port"], { reusePort: true }],
    [["-v", "--json"], { verbose: true, json: true }],
    [["-vp", "5"], { verbose: true, port: 5 }],
    [["-v", "-v"], { verbose: true }],
    [["-vp0"], { verbose: true, port: 0 }],
    [["-vhp=7"], { verbose: true, help: true, port: 7 }],
    [["-hV"], { help: true, version: true }],
    [["--unix", "/run/echo.sock"], { unix: "/run/echo.sock" }],
    [["--cert=a.pem", "--key", "b.pem"], { cert: "a.pem", key: "b.pem" }],
    [["--"], {}],
    [["--", "-p", "7"], { port: 7 }], // as people write it for npm
  ];
  const defaults = parseOptions([]);
  for (const [args, changed] of accepted) {
    assertEquals(parseOptions(args), { ...defaults, ...changed }, `${args}`);
  }
});

Deno.test("options: every refusal names the option and the value", () => {
  const refused: [string[], string][] = [];
  const seconds = "-1 1e3 NaN Infinity 1. . 0.0001 2147484 1,5".split(" ");
  const numbers = {
    port: [
      ...["", " 1", "1 ", "99999999999999999999999"],
      ..."65536 -1 1e3 0x10 0b1 0o7 NaN Infinity 1.5 1. .5 1_000 +1 ١ 1n"
        .split(" "),
    ],
    timeout: seconds,
    grace: seconds,
    "max-bytes": ["", "0", "1.5", "1073741825"],
    "max-connections": ["", "0", "None", "1000000001"],
  };
  for (const [name, values] of Object.entries(numbers)) {
    const what = /timeout|grace/.test(name) ? "a number" : "a whole number";
    for (const value of values) {
      const why = `--${name}: ${JSON.stringify(value)} is not ${what}`;
      refused.push([[`--${name}`, value], why], [[`--${name}=${value}`], why]);
    }
  }
  refused.push(
    [["--port"], "--port: needs a value"],
    [["-v", "-p"], "--port: needs a value"],
    [["--port", "1", "-p", "1"], "--port: given more than once"],
    [["--host", ""], '--host: "" is empty'],
    [["--unix="], '--unix: "" is empty'],
    [["--cert", "a"], "--cert: needs --key"],
    [["--key", "a"], "--key: needs --cert"],
    ...["--port=1", "--host=a", "--cert=a", "--key=a", "--reuse-port"].map((
      other,
    ): [string[], string] => [
      ["--unix", "a", other],
      `--unix: cannot be combined with ${other.split("=")[0]}`,
    ]),
    [["--help", "false"], 'unknown argument "false"'],
    [["-v", "false"], 'unknown argument "false"'],
    [["-pv"], '--port: "v" is not a whole number'],
    [["-vx"], 'unknown option "-x"'],
    [["--", "--", "-p7"], 'unknown option "-p7"'],
    [["-p", "1", "--", "-v"], 'unknown option "-v"'],
    [["--mode", "fast"], '--mode: "fast" is not one of'],
    [["--mode", "Serial"], '--mode: "Serial" is not one of'],
    [
      ["--greeting", String.raw`\q`],
      String.raw`--greeting: "\\q" is not valid: \q is not`,
    ],
    [["--greeting", "\\😀"], String.raw`"\\😀" is not valid: \😀 is not`],
    [["--greeting", String.raw`\x4`], String.raw`--greeting: "\\x4" is not`],
    [["--greeting", "\\"], String.raw`--greeting: "\\" is not`],
    [["--verbose=yes"], "--verbose: takes no value"],
    [["--json="], "--json: takes no value"],
    [["-v=yes"], "--verbose: takes no value"],
    [["--no-verbose"], 'unknown option "--no-verbose"'],
    [["--no-port=3"], 'unknown option "--no-port=3"'],
    [["--no-json=false", "1"], 'unknown option "--no-json=false"'],
    [["--prot", "1"], 'unknown option "--prot"'],
    [["-x"], 'unknown option "-x"'],
    [["-"], 'unknown option "-"'],
    [["-=1"], 'unknown option "-=1"'],
    [["--=1"], 'unknown option "--=1"'],
    [["---port=1"], 'unknown option "---port=1"'],
    [["-p", "1", "--", "30000"], 'unknown argument "30000"'],
    [["--__proto__"], 'unknown option "--__proto__"'],
    [["--constructor=1"], 'unknown option "--constructor=1"'],
    [["--port.x=1"], 'unknown option "--port.x=1"'],
    [["30000"], 'unknown argument "30000"'],
    [[""], 'unknown argument ""'],
    [["--", "a\u001b[31m\nb"], String.raw`unknown argument "a\u001b[31m\nb"`],
  );
  for (const [args, why] of refused) {
    const error = assertThrows(() => parseOptions(args), Error, why);
    assertEquals(error.name, "UsageError");
  }
});

Deno.test("options: a greeting of a megabyte", () => {
  const { greeting } = parseOptions(["--greeting", "x".repeat(1 << 20)]);
  assertEquals(greeting.length, 1 << 20);
});

Deno.test("options: four times as many do not take ten times as long", async () => {
  const lists: ((count: number) => string[])[] = [
    (count) => ["-" + "v".repeat(count)],
    (count) => Array(count).fill("-v"),
    (count) => Array(count).fill("--json"),
    (count) => ["--greeting", "\\n".repeat(count)],
  ];
  const timeOf = (args: string[]) => {
    const seconds = stopwatch();
    parseOptions(args);
    return seconds();
  };
  for (const list of lists) {
    await retry(20, () => {
      const isLate = timeOf(list(8000)) > 10 * timeOf(list(2000));
      return Promise.resolve(isLate ? "late" : undefined);
    });
  }
});

Deno.test("options: thousands of generated argument lists", () => {
  const random = new Random(1);
  const names = [
    "",
    ..."port host unix cert key greeting max-bytes timeout max-connections mode"
      .split(" "),
    ..."grace reuse-port verbose json help version x __proto__ p v h V"
      .split(" "),
  ];
  const values = [
    ...["", " ", "\n", "\u2028\u009b", "9".repeat(400)],
    ..."0 1 -1 65535 65536 1e3 0x10 1.5 NaN Infinity true false none serial"
      .split(" "),
    ..."\\r \\ é = -- -".split(" "),
  ];
  const shapes = [
    () => `--${random.pick(...names)}`,
    () => `-${random.pick(...names)}`,
    () => `--${random.pick(...names)}=${random.pick(...values)}`,
    () => `-${random.pick(...names)}${random.pick(...values)}`,
    () => `--no-${random.pick(...names)}`,
    () => `--no-${random.pick(...names)}=${random.pick(...values)}`,
    () => `--${random.pick(...names)}.${random.pick(...names)}=1`,
    () => random.pick(...values),
  ];
  let accepted = 0, refused = 0;
  for (let i = 0; i < 2_000; i++) {
    const args = Array.from(
      { length: random.int(0, 4) },
      () => random.pick(...shapes)(),
    );
    try {
      const options = parseOptions(args);
      assert(!args[0]?.startsWith("--no-")); // anywhere else it may be a value
      assert(Number.isInteger(options.port) && options.port <= 65535);
      assert(options.timeout >= 0 && options.grace >= 0 && options.host);
      assert(options.maxBytes >= 1 && options.maxConnections >= 1);
      assert(["concurrent", "serial", "events"].includes(options.mode));
      accepted++;
    } catch (error) {
      assertMatch(`${error}`, /^UsageError: (--[a-z-]+: |unknown ).+$/);
      // deno-lint-ignore no-control-regex
      assertEquals(/[\x00-\x1f\x7f-\x9f\u2028]/.test(`${error}`), false);
      refused++;
    }
  }
  assert(accepted > 200 && refused > 200, `${accepted}, ${refused}`);
});

withCommand("options: --version, and the README shows --help", async () => {
  await using help = new ServerProcess(["--version", "--help"]);
  await using version = new ServerProcess(["-V"]);
  assertEquals([await help.code(), await version.code()], [0, 0]);
  assertEquals(help.stderr.all.length + version.stderr.all.length, 0);
  assertEquals(version.stdout.all, [`echo-server ${denoJson.version}`]);
  const readme = readFile("README.md");
  const shown = readme.match(/\$ .* --help\n([^]*?)```/)?.[1] ?? "";
  assertEquals(shown.trimEnd().split("\n"), help.stdout.all);
  assert(help.stdout.all.every((line) => line.length <= 80));
});

withCommand("options: each failure is one line, if possible", async () => {
  const cases: [string, string, number, string[]][] = [
    ["--port=1e3", "", 2, [
      'echo-server: --port: "1e3" is not a whole number from 0 to 65535; try --help',
    ]],
    ["--port=1e3", "2>/dev/full", 2, []],
    ["--help", ">/dev/full", 1, [
      "echo-server: cannot write to stdout: no space left on device",
    ]],
  ];
  for (const [arg, redirection, code, lines] of cases) {
    await using command = new ServerProcess(
      [arg],
      after(`exec ${redirection}`, runMain()),
    );
    assertEquals(await command.code(), code);
    assertEquals(command.stdout.all, []);
    assertEquals(command.stderr.all, lines);
  }
});
