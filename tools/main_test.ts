import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { parseOptions, UsageError } from "../main.ts";
import type { Mode } from "../server.ts";
import { runMain, ServerProcess } from "./server_process.ts";
import {
  ask,
  bytesOf,
  connect,
  connectMany,
  exchange,
  GREETING,
  needs,
  readAll,
  readExactly,
  reset,
  textOf,
  turn,
  withCommand,
} from "./testing.ts";

const MODES: Mode[] = ["concurrent", "serial", "events"];

// ------------------------------------------------------------------ the options

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
      {
        greeting: new Uint8Array(
          [13, 10, 9, 0, 92, 110, 255, 0, 0xc3, 0xa9],
        ),
      },
    ],
    [["--max-bytes", "1"], { maxBytes: 1 }],
    [["--max-bytes", "1073741824"], { maxBytes: 2 ** 30 }],
    [["--timeout", "0"], { timeout: 0 }],
    [["--timeout", "0.25"], { timeout: 250 }],
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
    [["--verbose", "false"], { verbose: false }], // parseArgs reads it so
    [["-hV"], { help: true, version: true }],
    [["--"], {}],
  ];
  const defaults = parseOptions([]);
  for (const [args, changed] of accepted) {
    assertEquals(parseOptions(args), { ...defaults, ...changed }, `${args}`);
  }
});

Deno.test("options: every refusal names the option and the value", () => {
  const refused: [string[], string][] = [];
  for (
    const value of [
      ..."65536 -1 1e3 0x10 0b1 0o7 NaN Infinity 1.5 1. .5 1_000 +1 ١ 1n"
        .split(" "),
      "",
      " 1",
      "1 ",
      "99999999999999999999999",
    ]
  ) {
    const why = `--port: ${JSON.stringify(value)} is not a whole number`;
    refused.push([["--port", value], why], [[`--port=${value}`], why]);
  }
  for (const value of "-1 1e3 NaN Infinity 1. .5 2147484 1,5".split(" ")) {
    refused.push(
      [["--timeout", value], `--timeout: "${value}" is not a number`],
      [["--grace", value], `--grace: "${value}" is not a number`],
    );
  }
  for (const value of ["0", "1.5", "1073741825", ""]) {
    refused.push([["--max-bytes", value], `--max-bytes: "${value}" is not`]);
  }
  for (const value of ["0", "None", "1000000001", ""]) {
    refused.push(
      [["--max-connections", value], `--max-connections: "${value}" is not`],
    );
  }
  refused.push(
    [["--port"], "--port: needs a value"],
    [["-v", "-p"], "--port: needs a value"],
    [["--port", "1", "-p", "1"], "--port: is given more than once"],
    [["--host", ""], "--host: must not be empty"],
    [["--mode", "fast"], '--mode: "fast" is not one of'],
    [["--mode", "Serial"], '--mode: "Serial" is not one of'],
    [["--greeting", String.raw`\q`], String.raw`--greeting: "\\q" is not`],
    [["--greeting", String.raw`\x4`], String.raw`--greeting: "\\x" is not`],
    [["--greeting", "\\"], String.raw`--greeting: "\\" is not`],
    [["--verbose=yes"], "--verbose: takes no value"],
    [["--json="], "--json: takes no value"],
    [["-v=yes"], "--verbose: takes no value"],
    [["--no-verbose"], 'unknown option "--no-verbose"'],
    [["--no-port"], 'unknown option "--no-port"'],
    [["--prot", "1"], 'unknown option "--prot"'],
    [["-x"], 'unknown option "-x"'],
    [["-"], 'unknown option "-"'],
    [["--__proto__"], 'unknown option "--__proto__"'],
    [["--constructor=1"], 'unknown option "--constructor=1"'],
    [["--port.x=1"], 'unknown option "--port.x=1"'],
    [["30000"], 'unknown argument "30000"'],
    [[""], 'unknown argument ""'],
    [["--", "a\u001b[31m\nb"], String.raw`unknown argument "a\u001b[31m\nb"`],
  );
  for (const [args, why] of refused) {
    assertThrows(() => parseOptions(args), UsageError, why);
  }
});

Deno.test("options: thousands of generated argument lists", () => {
  // A generator of its own, so that a failure can be repeated.
  let state = 1;
  const random = (below: number) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
  const pick = <T>(from: T[]) => from[random(from.length)];
  const names = [
    ..."port host greeting max-bytes timeout max-connections mode grace".split(
      " ",
    ),
    ..."reuse-port verbose json help version no-json x __proto__ p v h V".split(
      " ",
    ),
    "",
  ];
  const values = [
    ..."0 1 -1 65535 65536 1e3 0x10 1.5 NaN Infinity true false none serial"
      .split(" "),
    "",
    " ",
    "\\r",
    "\\",
    "\n",
    "\u2028\u009b",
    "é",
    "=",
    "--",
    "-",
    "9".repeat(400),
  ];
  const shapes = [
    () => `--${pick(names)}`,
    () => `-${pick(names)}`,
    () => `--${pick(names)}=${pick(values)}`,
    () => `-${pick(names)}${pick(values)}`,
    () => pick(values),
  ];
  let accepted = 0, refused = 0;
  for (let i = 0; i < 20_000; i++) {
    const args = Array.from({ length: random(5) }, () => pick(shapes)());
    try {
      const options = parseOptions(args);
      assert(Number.isInteger(options.port) && options.port <= 65535);
      assert(options.timeout >= 0 && options.grace >= 0 && options.host);
      assert(options.maxBytes >= 1 && options.maxConnections >= 1);
      assert(MODES.includes(options.mode));
      accepted++;
    } catch (error) {
      assert(error instanceof UsageError, `${JSON.stringify(args)}: ${error}`);
      assertMatch((error as Error).message, /^(--[a-z-]+: |unknown ).+$/);
      // deno-lint-ignore no-control-regex
      assertEquals(/[\x00-\x1f\x7f-\x9f\u2028]/.test(`${error}`), false);
      refused++;
    }
  }
  assert(accepted > 500 && refused > 500, `${accepted}, ${refused}`);
});

// ------------------------------------------------------------------ the command

withCommand(
  "command: says when it is ready, serves, logs, and sums up",
  async () => {
    await using command = new ServerProcess(["--port", "0", "-v"]);
    const port = await command.ready();
    assertEquals(command.stdout.all, [`wait... listening on 0.0.0.0:${port}`]);
    assertEquals(
      await exchange(port, "\x1b]0;secret\x07"),
      GREETING + "\x1b]0;secret\x07",
    );
    assertMatch(
      await command.event("exchange"),
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z exchange remote=127\.0\.0\.1:\d+ outcome=echoed bytes=11 ms=\d+(\.\d+)?$/,
    );
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
    const [, shutdown, summary] = command.stderr.all;
    assertMatch(shutdown, /Z shutdown signal=SIGTERM$/);
    assertMatch(
      summary,
      /Z summary echoed=1 eof=0 timeout=0 reset=0 shutdown=0 error=0$/,
    );
    assertEquals(command.stderr.all.length, 3);
    assertEquals(command.stdout.all.length, 1);
    assertEquals(`${command.stderr.all}`.includes("secret"), false);
  },
);

withCommand("command: --json logs an object a line", async () => {
  await using command = new ServerProcess([
    "--port=0",
    "-v",
    "--json",
    "--greeting=",
  ]);
  const port = await command.ready();
  assertEquals(await exchange(port, "hoge"), "hoge");
  await command.event("exchange");
  command.kill("SIGINT");
  assertEquals(await command.code(), 0);
  const [one, two, three] = command.stderr.all.map((line) => JSON.parse(line));
  assertMatch(one.time, /^\d{4}-.*Z$/);
  assertMatch(one.remote, /^127\.0\.0\.1:\d+$/);
  assert(one.ms > 0);
  assertEquals(
    { ...one, time: 0, remote: 0, ms: 0 },
    {
      time: 0,
      event: "exchange",
      remote: 0,
      outcome: "echoed",
      bytes: 4,
      ms: 0,
    },
  );
  assertEquals({ ...two, time: 0 }, {
    time: 0,
    event: "shutdown",
    signal: "SIGINT",
  });
  assertEquals(three.event, "summary");
  assertEquals(three.echoed, 1);
});

withCommand("command: --help and --version", async () => {
  await using help = new ServerProcess(["--help"]);
  await using version = new ServerProcess(["-V"]);
  assertEquals([await help.code(), await version.code()], [0, 0]);
  assertEquals(help.stderr.all.length + version.stderr.all.length, 0);
  const { version: is } = JSON.parse(
    await Deno.readTextFile(new URL("../deno.json", import.meta.url)),
  );
  assertEquals(version.stdout.all, [`echo-server ${is}`]);
  assertEquals(help.stdout.all[0], `echo-server ${is}`);
});

withCommand(
  "command: --help and the README know the same options",
  async () => {
    await using help = new ServerProcess(["--help"]);
    await help.code();
    const readme = await Deno.readTextFile(
      new URL("../README.md", import.meta.url),
    );
    const options = (text: string) =>
      [...text.matchAll(/^(?:\| `| +)(?:-\w, )?(--[a-z-]+)/gm)]
        .map(([, name]) => name);
    assertEquals(options(help.stdout.all.join("\n")), options(readme));
    assertEquals(options(readme).length, 13);
  },
);

withCommand("command: a usage error is one line and exit code 2", async () => {
  await using command = new ServerProcess(["--port", "1e3"]);
  assertEquals(await command.code(), 2);
  assertEquals(command.stdout.all, []);
  assertEquals(command.stderr.all, [
    'echo-server: --port: "1e3" is not a whole number from 0 to 65535',
  ]);
});

withCommand(
  "command: what the system refuses is one line and exit code 1",
  async () => {
    using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = taken.addr;
    const cases: [string[], string, string[]?][] = [
      [
        ["--host", "127.0.0.1", "--port", `${port}`],
        `127.0.0.1:${port}: the port is in use`,
      ],
      [
        ["--host", "192.0.2.1", "--port", "0"],
        "192.0.2.1:0: this machine does not have that address",
      ],
      [["--host", "a b\n", "--port", "0"], String.raw`a b\n:0: invalid host`],
      [["--port", "0"], "0.0.0.0:0: run it with --allow-net", runMain()],
    ];
    for (const [args, why, program] of cases) {
      await using command = new ServerProcess(args, program);
      assertEquals(await command.code(), 1);
      assertEquals(command.stdout.all, []);
      assertEquals(command.stderr.all.length, 1, `${command.stderr.all}`);
      const line = `echo-server: cannot listen on ${why}`;
      assertEquals(command.stderr.all[0].slice(0, line.length), line);
    }
  },
);

withCommand(
  "command: it needs no permission but for its address and port",
  async () => {
    await using command = new ServerProcess(
      ["--host", "127.0.0.1", "--port", "0"],
      runMain("--allow-net=127.0.0.1:0"),
    );
    await command.ready();
  },
);

withCommand("command: an IPv6 address stands in brackets", async () => {
  await using command = new ServerProcess(["--host", "::1", "--port", "0"]);
  await command.ready();
  assertMatch(command.stdout.all[0], /listening on \[::1\]:\d+$/);
});

withCommand(
  "command: --mode, --max-bytes and --timeout reach the service",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "--mode=serial", "--max-bytes=3", "--timeout=0.3", "-v"],
    );
    const port = await command.ready();
    using silent = await connect(port);
    await readExactly(silent, GREETING.length);
    assertEquals(await exchange(port, "hoge"), GREETING + "hog"); // after 0.3 s
    assertEquals(await silent.read(new Uint8Array(1)), null);
    assertMatch(await command.event("exchange"), /outcome=timeout/);
  },
);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  withCommand(
    `command: ${signal}, the grace, and a clean end for the idle`,
    async () => {
      await using command = new ServerProcess(["-p0", "--grace=0.5", "-v"]);
      const port = await command.ready();
      using idle = await connect(port);
      using busy = await connect(port);
      await readExactly(idle, GREETING.length);
      await readExactly(busy, GREETING.length);
      command.kill(signal);
      await command.event("shutdown");
      assertEquals(await ask(busy, "in time"), "in time");
      assertEquals(await idle.read(new Uint8Array(1)), null);
      assertEquals(await command.code(), 0);
      assertMatch(
        await command.event("summary"),
        /echoed=1 eof=0 timeout=0 reset=0 shutdown=1 error=0$/,
      );
    },
  );

  withCommand(`command: a second ${signal} ends it at once`, async () => {
    await using command = new ServerProcess(["-p0", "--timeout=0"]);
    const port = await command.ready();
    using idle = await connect(port);
    await readExactly(idle, GREETING.length);
    command.kill(signal);
    await command.event("shutdown");
    command.kill(signal);
    assertEquals(await command.code(), signal === "SIGINT" ? 130 : 143);
  });
}

withCommand("command: a thousand resets leave nothing behind", async () => {
  await using command = new ServerProcess(["-p0", "--max-bytes=1000000"]);
  const port = await command.ready();
  await exchange(port, "hoge");
  const before = await command.descriptors();
  for (let i = 0; i < 125; i++) {
    await Promise.all([
      reset(port, "connect"), // before the greeting, often before the accept
      reset(port, "connect"),
      reset(port, "data"), // after the greeting
      reset(port, "data"),
      reset(port, "connect", "x".repeat(100)), // in the middle of a message
      reset(port, "data", "x".repeat(100)),
      reset(port, "connect", "x".repeat(500_000)), // while it echoes
      reset(port, "data", "x".repeat(500_000)),
    ]);
  }
  assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
  while (await command.descriptors() > before) await turn();
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertEquals(command.stderr.all.length, 2);
  assertMatch(
    command.stderr.all[1],
    / reset=\d\d+ shutdown=0 error=0$/,
  );
});

withCommand(
  "command: out of descriptors, it backs off and recovers",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "-v"],
      ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", ...runMain("--allow-net")],
    );
    const port = await command.ready();
    const clients = await connectMany(port, 200);
    assertMatch(
      await command.event("accept-error"),
      /error="Too many open files \(os error 24\)"$/,
    );
    // Each one leaves as soon as it has its echo: so the next ones are taken.
    const echoes = await Promise.all(clients.map(async (conn, i) => {
      await readExactly(conn, GREETING.length);
      const echo = await ask(conn, `${i}`);
      conn.close();
      return echo;
    }));
    assertEquals(echoes, clients.map((_, i) => `${i}`));
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
    assertMatch(await command.event("summary"), /echoed=200 .* error=0$/);
    const times = command.stderr.all
      .filter((line) => line.includes("accept-error"))
      .map((line) => Date.parse(line.split(" ")[0]));
    times.slice(1).forEach((time, i) => assert(time - times[i] >= 990));
  },
);

withCommand("command: SIGTERM under load loses no exchange", async () => {
  await using command = new ServerProcess(["-p0"]);
  const port = await command.ready();
  const open = () => connectMany(port, 500);
  const greeted = await open();
  await Promise.all(
    greeted.map((conn) => readExactly(conn, GREETING.length)),
  );
  command.kill("SIGSTOP"); // so that the next ones wait in the kernel's queue
  const queued = await open();
  await Promise.all(
    [...greeted, ...queued].map((conn) => conn.write(bytesOf("hoge"))),
  );
  command.kill("SIGTERM");
  command.kill("SIGCONT");
  const answers = async (conns: Deno.Conn[]) =>
    new Set((await Promise.all(conns.map(readAll))).map(textOf));
  assertEquals(await answers(greeted), new Set(["hoge"]));
  assertEquals(await answers(queued), new Set([GREETING + "hoge"]));
  assertEquals(await command.code(), 0);
  assertEquals(command.stderr.all.length, 2);
  assertMatch(
    command.stderr.all[1],
    /echoed=1000 eof=0 timeout=0 reset=0 shutdown=0 error=0$/,
  );
  [...greeted, ...queued].forEach((conn) => conn.close());
});

if (Deno.build.os === "linux") {
  withCommand(
    "command: --reuse-port, two share a port and either may stop",
    async () => {
      await using one = new ServerProcess(["-p0", "--reuse-port"]);
      const port = await one.ready();
      await using two = new ServerProcess(["-p", `${port}`, "--reuse-port"]);
      await two.ready();
      await using alone = new ServerProcess(["-p", `${port}`]);
      assertEquals(await alone.code(), 1); // whoever does not share is refused

      const inHand = await connectMany(port, 100);
      await Promise.all(
        inHand.map((conn) => readExactly(conn, GREETING.length)),
      );
      one.kill("SIGTERM");
      await one.event("shutdown");
      for (const conn of inHand) {
        assertEquals(await ask(conn, "hoge"), "hoge");
        conn.close();
      }
      assertEquals(await one.code(), 0);
      for (let i = 0; i < 100; i++) { // from now on the other takes all
        assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
      }
      two.kill("SIGTERM");
      assertEquals(await two.code(), 0);

      const echoed = await Promise.all([one, two].map(async (command) => {
        const summary = await command.event("summary");
        return Number(summary.match(/echoed=(\d+) .* error=0$/)?.[1]);
      }));
      assert(echoed.every((count) => count > 10), `${echoed}`);
      assertEquals(echoed[0] + echoed[1], 200);
    },
  );
}

needs(
  ["net", "run", "read", "write"],
  [],
  "command: deno install --global makes a command of it",
  async () => {
    const root = await Deno.makeTempDir();
    const deno = Deno.execPath();
    const { success, stderr } = await new Deno.Command(deno, {
      args:
        "install --global --config deno.json --allow-net --name echo-server --root"
          .split(" ").concat(root, "main.ts"),
      cwd: new URL("..", import.meta.url),
    }).output();
    assert(success, textOf(stderr));
    {
      const bin = deno.slice(0, deno.lastIndexOf("/"));
      const path = 'PATH="$0:$PATH"; exec "$@"'; // it looks for deno there
      await using command = new ServerProcess(
        ["--port", "0", "--reuse-port"],
        ["sh", "-c", path, bin, `${root}/bin/echo-server`],
      );
      const port = await command.ready();
      assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
      command.kill("SIGTERM");
      assertEquals(await command.code(), 0);
    }
    await Deno.remove(root, { recursive: true });
  },
);

withCommand(
  "command: nobody reading its log or its output is no reason to end",
  async () => {
    await using command = new ServerProcess(["-p0", "-v"]);
    const port = await command.ready();
    command.stopReading();
    for (let i = 0; i < 3; i++) {
      assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
    }
  },
);
