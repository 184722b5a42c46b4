import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  redirected,
  runMain,
  runMainLimited,
  ServerProcess,
} from "../testing/processes.ts";
import { bytesOf, GREETING, textOf } from "../testing/bytes.ts";
import {
  ask,
  connect,
  connectMany,
  exchange,
  greetMany,
  readAll,
  readExactly,
  readText,
  reset,
  send,
} from "../testing/clients.ts";
import { IPV6, needs, queueOf, withCommand } from "../testing/needs.ts";
import { delay, stopwatch, tryWithin, turn } from "../testing/timing.ts";

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
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z exchange remote=127\.0\.0\.1:\d+ outcome=echoed bytes=11 ms=\d+(\.\d{1,3})?$/,
    );
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
    const [, shutdown, summary] = command.stderr.all;
    assertMatch(shutdown, /Z shutdown signal=SIGTERM clients=0 grace=10$/);
    assertMatch(
      summary,
      /Z summary echoed=1 eof=0 timeout=0 reset=0 shutdown=0 error=0$/,
    );
    assertEquals(command.stderr.all.length, 3);
    assertEquals(command.stdout.all.length, 1);
    assertEquals(`${command.stderr.all}`.includes("secret"), false);
  },
);

withCommand("command: --json logs one object per line", async () => {
  await using command = new ServerProcess([
    "--port=0",
    "-v",
    "--json",
    "--greeting=",
  ]);
  const port = await command.ready();
  const { time, ...listening } = JSON.parse(command.stdout.all[0]);
  assertMatch(time, /^\d{4}-.*Z$/);
  assertEquals(listening, { event: "listening", address: `0.0.0.0:${port}` });
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
    clients: 0,
    grace: 10,
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
    await Deno.readTextFile(new URL("../../deno.json", import.meta.url)),
  );
  assertEquals(version.stdout.all, [`echo-server ${is}`]);
  assertEquals(help.stdout.all[0], `echo-server ${is}`);
});

withCommand("command: the README shows what --help prints", async () => {
  await using help = new ServerProcess(["--help"]);
  await help.code();
  const readme = await Deno.readTextFile(
    new URL("../../README.md", import.meta.url),
  );
  const shown = readme.match(/\$ .* --help\n([^]*?)```/)?.[1] ?? "";
  assertEquals(shown.trimEnd().split("\n"), help.stdout.all);
  assert(help.stdout.all.every((line) => line.length <= 80));
});

withCommand("command: --help on a full disk is one line", async () => {
  await using command = new ServerProcess(
    ["--help"],
    redirected(">/dev/full", runMain()),
  );
  assertEquals(await command.code(), 1);
  assertEquals(command.stderr.all, [
    "echo-server: cannot write to stdout: no space left on device",
  ]);
});

withCommand("command: a usage error on a full disk exits with 2", async () => {
  await using command = new ServerProcess(
    ["--port=x"],
    redirected("2>/dev/full", runMain()),
  );
  assertEquals(await command.code(), 2);
});

withCommand("command: a usage error is one line and exit code 2", async () => {
  await using command = new ServerProcess(["--port", "1e3"]);
  assertEquals(await command.code(), 2);
  assertEquals(command.stdout.all, []);
  assertEquals(command.stderr.all, [
    'echo-server: --port: "1e3" is not a whole number from 0 to 65535; try --help',
  ]);
});

withCommand(
  "command: a system error is one line and exit code 1",
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
      [["--host", "a b\n", "--port", "0"], "a b :0: invalid host"],
      [
        ["--host", "a\x1b[31m", "--port", "0"],
        String.raw`a\u001b[31m:0: invalid host 'a\u001b[31m'`,
      ],
      [
        ["--port", "0"],
        "0.0.0.0:0: run it with --allow-net=0.0.0.0:0",
        runMain(),
      ],
      [
        ["--port", "31002"],
        "0.0.0.0:31002: run it with --allow-net=0.0.0.0:31002",
        runMain("--allow-net=0.0.0.0:31001"),
      ],
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
  "command: it needs no permission except for its address and port",
  async () => {
    await using command = new ServerProcess(
      ["--host", "127.0.0.1", "--port", "0"],
      runMain("--allow-net=127.0.0.1:0"),
    );
    await command.ready();
  },
);

needs(
  ["net", "run", "read"],
  [IPV6],
  "command: an IPv6 address is in brackets",
  async () => {
    await using command = new ServerProcess(["--host", "::1", "--port", "0"]);
    await command.ready();
    assertMatch(command.stdout.all[0], /listening on \[::1\]:\d+$/);
  },
);

withCommand(
  "command: --mode, --max-bytes and --timeout reach the service",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "--mode=serial", "--max-bytes=3", "--timeout=0.3", "-v"],
    );
    const port = await command.ready();
    using silent = await connect(port);
    await readExactly(silent, GREETING.length);
    command.kill("SIGSTOP"); // so that the data is there before the accept
    using next = await connect(port);
    await send(next, "hoge");
    command.kill("SIGCONT");
    assertEquals(await readText(next), GREETING + "hog"); // after 0.3 s
    assertEquals(await silent.read(new Uint8Array(1)), null);
    assertMatch(await command.event("exchange"), /outcome=timeout/);
  },
);

withCommand("command: --max-connections reaches the service", async () => {
  await using command = new ServerProcess(["-p0", "-v", "--max-connections=1"]);
  const port = await command.ready();
  using clients = await greetMany(port, 1);
  using second = await connect(port);
  await send(second, "second"); // it would be echoed first
  const answer = readText(second);
  await delay(100); // a slow machine proves less
  assertEquals(await ask(clients[0], "1st"), "1st");
  assertEquals(await answer, `${GREETING}second`);
  assertMatch(await command.event("exchange"), / bytes=3 /);
});

withCommand(
  "command: --grace reaches the service",
  () =>
    tryWithin([10, 10, 10], async (preset) => {
      await using command = new ServerProcess(["-p0", "--grace=0"]);
      using _idle = await greetMany(await command.ready(), 1);
      const sinceSignal = stopwatch();
      command.kill("SIGTERM");
      assertEquals(await command.code(), 0);
      if (sinceSignal() >= preset) return "late"; // that was the default
    }),
);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  withCommand(
    `command: ${signal}, the grace, and a clean EOF for idle clients`,
    () =>
      tryWithin([0.5, 2, 8], async (grace) => {
        await using command = new ServerProcess(["-p0", `--grace=${grace}`]);
        const port = await command.ready();
        using clients = await greetMany(port, 2);
        const [idle, busy] = clients;
        const sinceSignal = stopwatch();
        command.kill(signal);
        await command.event("shutdown");
        const echo = await ask(busy, "in time").catch(String);
        if (echo !== "in time" && sinceSignal() >= grace) return "late";
        assertEquals(echo, "in time");
        assertEquals(await idle.read(new Uint8Array(1)), null);
        assertEquals(await command.code(), 0);
        assertMatch(
          await command.event("summary"),
          /echoed=1 eof=0 timeout=0 reset=0 shutdown=1 error=0$/,
        );
      }),
  );

  withCommand(
    `command: ${signal} that arrives twice is one request`,
    () =>
      tryWithin([1, 1, 1], async (second) => {
        await using command = new ServerProcess(["-p0"]);
        const port = await command.ready();
        using clients = await greetMany(port, 50);
        const sinceSignal = stopwatch();
        command.kill(signal);
        command.kill(signal);
        assertMatch(await command.event("shutdown"), / clients=50 grace=10$/);
        command.kill(signal);
        const echoes = await Promise.all(
          clients.map((conn) => ask(conn, "last words").catch(String)),
        );
        const code = await command.code();
        if (code !== 0 && sinceSignal() >= second) return "late";
        assertEquals(code, 0);
        assertEquals(echoes, clients.map(() => "last words"));
        assertEquals(command.stderr.all.length, 2);
      }),
  );

  withCommand(
    `command: a ${signal} that comes later ends it at once`,
    async () => {
      await using command = new ServerProcess(["-p0", "--grace=60"]);
      const port = await command.ready();
      using _idle = await greetMany(port, 1);
      command.kill(signal);
      await command.event("shutdown"); // by now, that second has begun
      await delay(1010);
      command.kill(signal);
      assertEquals(await command.code(), signal === "SIGINT" ? 130 : 143);
    },
  );
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

needs(
  ["net", "run", "read"],
  [queueOf(200)],
  "command: out of file descriptors, it backs off and recovers",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "-v"],
      runMainLimited(),
    );
    const port = await command.ready();
    using clients = await connectMany(port, 200);
    assertMatch(
      await command.event("accept-error"),
      /error="Too many open files \(os error 24\)"$/,
    );
    await command.event("accept-error", 2); // the log has one a second
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

needs(
  ["net", "run", "read"],
  [queueOf(1000)],
  "command: SIGTERM under load loses no exchange",
  async () => {
    await using command = new ServerProcess(["-p0"]);
    const port = await command.ready();
    using greeted = await greetMany(port, 500);
    command.kill("SIGSTOP"); // so that the next ones wait in the kernel's queue
    using queued = await connectMany(port, 1000);
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
      /echoed=1500 eof=0 timeout=0 reset=0 shutdown=0 error=0$/,
    );
  },
);

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

      using inProgress = await greetMany(port, 100);
      one.kill("SIGTERM");
      await one.event("shutdown");
      for (const conn of inProgress) {
        assertEquals(await ask(conn, "hoge"), "hoge");
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
    const cwd = new URL("../..", import.meta.url);
    const readme = await Deno.readTextFile(new URL("README.md", cwd));
    const [, args] = readme.match(/^deno (install .*) main\.ts$/m)!;
    const { success, stderr } = await new Deno.Command(deno, {
      args: args.split(" ").concat("--root", root, "main.ts"),
      cwd,
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
  "command: closed stdout and stderr pipes do not end it",
  async () => {
    await using command = new ServerProcess(["-p0", "-v"]);
    const port = await command.ready();
    command.stopReading();
    for (let i = 0; i < 3; i++) {
      assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
    }
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
  },
);
