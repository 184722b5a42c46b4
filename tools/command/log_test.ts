/** The log: nothing an operator does with it harms an exchange. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  onTerminal,
  runMain,
  runPretending,
  ServerProcess,
  withTerminal,
} from "../testing/command.ts";
import { after, output, tryKill } from "../testing/child.ts";
import { folder } from "../testing/folder.ts";
import { GREETING } from "../testing/bytes.ts";
import {
  ask,
  exchange,
  exchangeMany,
  greetMany,
  readExactly,
  waitUntilFree,
} from "../testing/clients.ts";
import { withCommand, withFiles } from "../testing/needs.ts";
import { Pipe } from "../testing/pipe.ts";
import { retry, turn } from "../testing/timing.ts";

withCommand("log: --json logs one object per line", async () => {
  await using command = new ServerProcess(
    ["-p0", "-v", "--json", "--greeting="],
  );
  const port = await command.ready();
  assertEquals(await exchange(port, "hoge"), "hoge");
  await command.event("exchange");
  command.kill("SIGINT");
  assertEquals(await command.code(), 0);
  const lines = [...command.stdout.all, ...command.stderr.all]
    .map((line) => JSON.parse(line));
  for (const { time } of lines) assertMatch(time, /^\d{4}-.*Z$/);
  assertMatch(lines[1].remote, /^127\.0\.0\.1:\d+$/);
  assert(lines[1].ms > 0);
  const some = { echoed: 1, eof: 0, timeout: 0, reset: 0, shutdown: 0 };
  assertEquals(
    lines.map(({ time: _time, remote: _remote, ms: _ms, ...rest }) => rest),
    [
      { event: "listening", address: `0.0.0.0:${port}` },
      { event: "exchange", outcome: "echoed", bytes: 4 },
      { event: "shutdown", signal: "SIGINT", clients: 0, grace_ms: 10_000 },
      { event: "summary", ...some, error: 0 },
    ],
  );
});

const MAIN = runMain("--allow-net");

withFiles(
  "log: stdout and stderr on a full disk do not stop the service",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/echo.sock`;
    await using command = new ServerProcess(
      ["--unix", path, "-v"],
      after("exec >/dev/full 2>/dev/full", runMain("--allow-all")),
    );
    const connect = () => Deno.connect({ transport: "unix", path });
    let first: Deno.Conn | undefined;
    while (!first && !command.ended) { // it cannot say that it is ready
      first = await connect().catch(() => undefined);
    }
    assertEquals(await ask(first!, "hoge"), `${GREETING}hoge`);
    first!.close();
    using second = await connect();
    await readExactly(second, GREETING.length);
    command.kill("SIGTERM");
    assertEquals(await ask(second, "hoge"), "hoge");
    assertEquals(await command.code(), 0);
  },
);

/** How many lines of a log are about exchanges, and how many it has lost. */
function count(log: string[]): { written: number; lost: number } {
  const counts = log.map((line) => line.match(/ log-dropped lines=(\d+)$/));
  return {
    written: log.filter((line) => line.includes(" exchange ")).length,
    lost: counts.reduce((sum, count) => sum + Number(count?.[1] ?? 0), 0),
  };
}

withCommand(
  "log: lost lines are counted, also if their report waits or is lost",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "-v", "--grace=60"],
      runPretending(
        // The first line and the second report wait; the first report is lost.
        `const { write } = Deno.stderr;
        let writes = 0;
        Deno.stderr.write = async (bytes) => {
          writes++;
          if (writes === 1 || writes === 4) {
            await new Promise((go) => Deno.addSignalListener("SIGUSR2", go));
          }
          if (writes === 2) throw new Error("no room");
          return await write.call(Deno.stderr, bytes);
        }`,
        "--allow-net",
      ),
    );
    const port = await command.ready();
    using clients = await greetMany(port, 1); // it delays the end
    await exchangeMany(port, 2100); // which is more than the queue holds
    command.kill("SIGUSR2");
    await command.event("exchange", 2);
    await exchangeMany(port, 100);
    command.kill("SIGTERM");
    await waitUntilFree(port);
    command.kill("SIGUSR2");
    await command.event("shutdown"); // the queue was full, but keeps the last
    assertEquals(await ask(clients[0], "hoge"), "hoge");
    assertEquals(await command.code(), 0);
    const { written, lost } = count(command.stderr.all);
    assert(lost > 99 && lost < 400, `${lost}`);
    assertEquals(written + lost, 2201);
  },
);

const withPipe = (name: string, fn: () => Promise<void>) =>
  withFiles(name, fn, ["mkfifo"]);

withPipe(
  "log: a reader that never reads blocks no exchange and no shutdown",
  async () => {
    await using pipe = await Pipe.full();
    await using command = new ServerProcess(
      ["-p0", "-v"],
      after(`exec 2>${pipe.path}`, MAIN),
    );
    await exchangeMany(await command.ready(), 100);
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
  },
);

withPipe(
  "log: a slow reader gets the last lines and the number of the lost ones",
  () =>
    retry(3, async () => {
      await using pipe = await Pipe.full();
      await using command = new ServerProcess(
        ["-p0", "-v"],
        after(`exec 2>${pipe.path}`, MAIN),
      );
      await exchangeMany(await command.ready(), 900);
      pipe.pause = 50;
      pipe.read(4096);
      command.kill("SIGTERM");
      assertEquals(await command.code(), 0);
      if (pipe.reads < 10) return "late";
      pipe.pause = 0;
      await Deno.writeTextFile(pipe.path, "end of log\n");
      await pipe.lines.find((line) => line === "end of log");
      const lines = pipe.lines.all;
      const { written, lost } = count(lines);
      assert(lost > 0);
      assertEquals(written + lost, 900);
      for (
        const what of [/ shutdown signal=SIGTERM /, / summary echoed=900 /]
      ) {
        assertEquals(lines.filter((line) => what.test(line)).length, 1);
      }
    }),
);

withPipe(
  "log: lines of two processes on one pipe do not interleave",
  async () => {
    const COUNT = 250;
    await using pipe = await Pipe.full(); // so both have to wait for room
    const start = () =>
      new ServerProcess(["-p0", "-v"], after(`exec 2>${pipe.path}`, MAIN));
    await using one = start();
    await using two = start();
    const ports = [await one.ready(), await two.ready()];
    await Promise.all(ports.map((port) => exchangeMany(port, COUNT)));
    pipe.read(1000); // room for so little that large writes would interleave
    await pipe.lines.find((line) => line !== "", 2 * COUNT);
    for (const line of pipe.lines.all.filter((line) => line !== "")) {
      assertMatch(line, /^\S+Z exchange( [a-z]+=[^ =]+){4}$/);
    }
  },
);

withFiles(
  "log: a closed terminal disturbs no exchange or shutdown",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/code`;
    const run = '"$0" run --allow-net main.ts -p0 -v & echo pid=$!; ' +
      'wait $!; echo $? > "$1"';
    // In its own session, so that it does not get SIGHUP.
    await using terminal = onTerminal(
      `setsid sh -c '${run}' '${Deno.execPath()}' '${path}' & wait`,
    );
    const pid = Number((await terminal.shows(/pid=(\d+)\r/))[1]);
    try {
      const [, port] = await terminal.shows(/listening on .*:(\d+)\r/);
      using clients = await greetMany(Number(port), 50);
      await terminal[Symbol.asyncDispose]();
      await exchangeMany(Number(port), 50);
      Deno.kill(pid, "SIGTERM");
      await waitUntilFree(Number(port));
      for (const conn of clients) assertEquals(await ask(conn, "hoge"), "hoge");
      const code = () => Deno.readTextFile(path).catch(() => "");
      while (await code() === "") await turn();
      assertEquals(await code(), "0\n");
    } finally {
      tryKill(pid);
    }
  },
  ["script", "setsid"],
);

withTerminal("log: Ctrl-S in the terminal blocks no exchange", async () => {
  await using terminal = onTerminal(
    `exec '${Deno.execPath()}' run --allow-net main.ts -p0 -v --json`,
  );
  const [, port] = await terminal.shows(/"address":".*:(\d+)"}\r/);
  await terminal.write("\x13");
  await exchangeMany(Number(port), 300);
  await terminal.write("\x11");
  await terminal.shows(/"outcome":"echoed"/);
  await terminal.write("\x03");
  await terminal.shows(/"grace_ms":10000}\r/); // in JSON, without the hint
  await terminal.shows(/"summary","echoed":300,/);
  assertEquals(await terminal.code(), 0);
});

withFiles(
  "log: the size limit of files affects no exchange, nor a line",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/log`;
    await using command = new ServerProcess(
      ["-p0", "-v"],
      after(`exec 2>${path}`, MAIN),
    );
    const limitTo = (bytes: number | "unlimited") =>
      output(["prlimit", `--pid=${command.pid}`, `--fsize=${bytes}:unlimited`]);
    const port = await command.ready();
    await limitTo(3000); // so the last line is cut somewhere
    await exchangeMany(port, 100);
    while ((await Deno.stat(path)).size < 3000) await turn();
    await limitTo("unlimited");
    await exchangeMany(port, 10);
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
    const lines = (await Deno.readTextFile(path)).trimEnd().split("\n");
    for (const line of lines) {
      assertMatch(line, /^\S+Z \S+( [a-z_]+=[^ =]+)+$/);
    }
    const { written, lost } = count(lines);
    assert(lost > 0);
    assertEquals(written + lost, 110);
  },
  ["prlimit"],
);

withCommand("log: closed stdout and stderr pipes do not end it", async () => {
  await using command = new ServerProcess(["-p0", "-v"]);
  const port = await command.ready();
  command.stopReading();
  for (let i = 0; i < 3; i++) {
    assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
  }
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
});
