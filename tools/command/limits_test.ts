/** The limits: descriptors, timeouts and resets, a machine that stops it. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  runMainLimited,
  runPretending,
  ServerProcess,
} from "../testing/processes.ts";
import { output } from "../testing/child.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import {
  ask,
  connect,
  connectMany,
  exchange,
  greetMany,
  readExactly,
  readText,
  reset,
} from "../testing/clients.ts";
import {
  killSocket,
  needs,
  queueOf,
  SS_KILL,
  withCommand,
} from "../testing/needs.ts";
import { delay, stopwatch, tryWithin, turn } from "../testing/timing.ts";

needs(
  ["net", "run", "read"],
  [queueOf(200)],
  "limits: out of file descriptors, it backs off and recovers",
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
    assert(times[1] - times[0] < 10_000);
  },
);

withCommand("limits: a thousand resets leave nothing behind", async () => {
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
  const counts = command.stderr.all[1]
    .match(/ echoed=(\d+) .* reset=(\d+) shutdown=0 error=0$/);
  const [, echoed, resets] = (counts ?? []).map(Number);
  assert(echoed + resets >= 500, `${counts}`); // whoever has seen the greeting
});

needs(
  ["net", "run", "read"],
  [queueOf(150)],
  "limits: out of file descriptors when the grace ends: the queue gets a clean EOF",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "--grace=0.3"],
      runMainLimited(),
    );
    const port = await command.ready();
    using _silent = await connectMany(port, 50);
    await command.event("accept-error");
    using queued = await connectMany(port, 100);
    await Promise.all(
      queued.map((conn) => conn.write(bytesOf("hoge"))),
    );
    command.kill("SIGTERM");
    for (const conn of queued) {
      assertEquals(await readText(conn), ""); // a reset would reject
    }
    assertEquals(await command.code(), 0);
  },
);

withCommand(
  "limits: stopped for longer than the timeout: data that had arrived is echoed",
  () =>
    tryWithin([1, 4, 16], async (timeout) => {
      await using command = new ServerProcess(["-p0", `--timeout=${timeout}`]);
      const port = await command.ready();
      const sinceConnect = stopwatch();
      // So many that they cannot all be read in one turn of the event loop.
      using clients = await greetMany(port, 1000);
      command.kill("SIGSTOP");
      if (sinceConnect() >= timeout) return "late";
      const sinceStop = stopwatch();
      await Promise.all(clients.map((conn) => conn.write(bytesOf("hoge"))));
      while (sinceStop() < timeout + 0.1) {
        await delay(100);
      }
      command.kill("SIGCONT");
      const echoes = await Promise.all(clients.map(readText));
      assertEquals(echoes, clients.map(() => "hoge"));
    }),
);

needs(
  ["net", "run", "read"],
  [SS_KILL],
  "limits: a listener that has died ends the command with 1",
  async () => {
    await using command = new ServerProcess(["-p0"]);
    const port = await command.ready();
    using client = await connect(port);
    await readExactly(client, GREETING.length);
    assert(killSocket(port));
    assertEquals(await ask(client, "hoge"), "hoge");
    assertEquals(await command.code(), 1);
    const retries = command.stderr.all.slice(0, -2); // one a second
    const [failed, summary] = command.stderr.all.slice(-2);
    const error = 'error="Invalid argument (os error 22)"';
    assert(retries.length > 0);
    assert(retries.every((line) => line.endsWith(` accept-error ${error}`)));
    assert(failed.endsWith(` accept-failed ${error}`));
    assertMatch(summary, / summary echoed=1 /);
  },
);

withCommand(
  "limits: what ends the command is named, though one error a second is logged",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "--json"],
      runPretending(
        `const { listen } = Deno;
        Deno.listen = (options) => {
          const listener = listen(options);
          const errors = [new Error("odd \\u001b")];
          const next = () =>
            Promise.reject(errors.pop() || new Deno.errors.BadResource("dead"));
          listener[Symbol.asyncIterator] = () => ({ next });
          return listener;
        }`,
        "--allow-net",
      ),
    );
    assertEquals(await command.code(), 1);
    const [first, second] = command.stderr.all.map((line) => JSON.parse(line));
    const { event, error } = first;
    assertEquals([event, error], ["accept-error", "odd \x1b"]);
    assertEquals([second.event, second.error], ["accept-failed", "dead"]);
  },
);

needs(
  ["net", "run", "read"],
  ["ss"],
  "limits: --timeout 0 turns TCP keep-alive on, as ss shows",
  async () => {
    for (const [timeout, expected] of [["0", true], ["60", false]] as const) {
      await using command = new ServerProcess(["-p0", "--timeout", timeout]);
      const port = await command.ready();
      using client = await connect(port);
      await readExactly(client, GREETING.length);
      const socket = await output(["ss", "-Htno", `sport = :${port}`]);
      assertEquals(socket.includes("timer:(keepalive"), expected);
      assertEquals(await exchange(port, "hoge"), `${GREETING}hoge`);
      assert(socket.includes("ESTAB"));
    }
  },
);
