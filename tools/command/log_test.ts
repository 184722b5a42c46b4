/** The log: nothing an operator does with it harms an exchange. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  onTerminal,
  redirected,
  runMain,
  ServerProcess,
  tryKill,
  withTerminal,
} from "../testing/processes.ts";
import { output } from "../testing/child.ts";
import { folder } from "../testing/folder.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import {
  ask,
  exchange,
  exchangeMany,
  greetMany,
  readText,
  waitUntilFree,
} from "../testing/clients.ts";
import { needs, withCommand } from "../testing/needs.ts";
import { Pipe } from "../testing/pipe.ts";
import { delay, tryWithin, turn } from "../testing/timing.ts";

withCommand("log: --json logs one object per line", async () => {
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
    grace_ms: 10_000,
  });
  assertEquals(three.event, "summary");
  assertEquals(three.echoed, 1);
});

const MAIN = runMain("--allow-net");

for (const flag of ["--verbose", "--json"]) {
  withCommand(
    `log: stderr on a full disk disturbs no exchange or shutdown, with ${flag}`,
    async () => {
      await using command = new ServerProcess(
        ["-p0", flag],
        redirected("2>/dev/full", MAIN),
      );
      const port = await command.ready();
      await exchangeMany(port, 500);
      using clients = await greetMany(port, 50);
      await Promise.all(clients.map((conn) => conn.write(bytesOf("hoge"))));
      command.kill("SIGTERM");
      for (const conn of clients) {
        assertEquals(await readText(conn), "hoge");
      }
      assertEquals(await command.code(), 0);
    },
  );
}

withCommand(
  "log: stdout and stderr on a full disk do not stop the service",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/echo.sock`;
    await using command = new ServerProcess(
      ["--unix", path, "-v"],
      redirected(">/dev/full 2>/dev/full", runMain("--allow-all")),
    );
    const { promise, resolve } = Promise.withResolvers<void>();
    command.code().then(() => resolve());
    let conn: Deno.Conn | undefined;
    while (!conn && !command.ended) {
      conn = await Deno.connect({ transport: "unix", path })
        .catch(() => undefined);
    }
    assertEquals(await ask(conn!, "hoge"), `${GREETING}hoge`);
    conn!.close();
    command.kill("SIGTERM");
    await promise;
    assertEquals(await command.code(), 0);
  },
);

const withPipe = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read", "write"], ["mkfifo"], name, fn);

/** How many lines a log has lost. */
function lostIn(lines: string[]): number {
  const counts = lines.map((line) => line.match(/ log-dropped lines=(\d+)/));
  return counts.reduce((total, count) => total + Number(count?.[1] ?? 0), 0);
}

withPipe(
  "log: a reader that stops reading blocks no exchange; lost lines are counted",
  async () => {
    const COUNT = 3500;
    await using pipe = new Pipe();
    await using command = new ServerProcess(
      ["-p0", "-v"],
      redirected(`2>${pipe.path}`, MAIN),
    );
    const port = await command.ready();
    await exchangeMany(port, COUNT);
    pipe.read();
    let dropped = 0;
    let written = 0;
    for (let seen = 0; written + dropped < COUNT; seen++) {
      const line = (await pipe.lines.waitFor(seen + 1))[seen];
      assertMatch(
        line,
        /^\S+Z (exchange( [a-z]+=[^ =]+){4}|log-dropped lines=\d+)$/,
      );
      if (line.includes(" exchange ")) written++;
      else dropped += lostIn([line]);
    }
    assert(dropped > 0);
    assertEquals(written + dropped, COUNT);
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
  },
);

withPipe(
  "log: SIGTERM with a reader that never reads ends the process with 0",
  async () => {
    await using pipe = new Pipe();
    await using command = new ServerProcess(
      ["-p0", "-v"],
      redirected(`2>${pipe.path}`, MAIN),
    );
    const port = await command.ready();
    await exchangeMany(port, 1500);
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
  },
);

withPipe(
  "log: a slow reader gets the last lines and the number of the lost ones",
  () =>
    tryWithin([1, 1, 1], async () => {
      await using pipe = new Pipe();
      await using command = new ServerProcess(
        ["-p0", "-v"],
        redirected(`2>${pipe.path}`, MAIN),
      );
      const port = await command.ready();
      await exchangeMany(port, 2200); // the pipe and the queue are full
      pipe.pause = 50;
      pipe.read(4096);
      const { reads } = pipe;
      command.kill("SIGTERM");
      assertEquals(await command.code(), 0);
      if (pipe.reads < reads + 10) return "late";
      pipe.pause = 0;
      await Deno.writeTextFile(pipe.path, "end of log\n");
      await pipe.lines.find((line) => line === "end of log");
      const lines = pipe.lines.all;
      const count = (what: RegExp) =>
        lines.filter((line) => what.test(line)).length;
      assertEquals(count(/ shutdown signal=SIGTERM /), 1);
      assertEquals(count(/ summary echoed=2200 /), 1);
      assertEquals(count(/ exchange /) + lostIn(lines), 2200);
    }),
);

withPipe("log: when lines are dropped, the last ones are kept", async () => {
  await using pipe = new Pipe();
  await using command = new ServerProcess(
    ["-p0", "-v", "--grace=60"],
    redirected(`2>${pipe.path}`, MAIN),
  );
  const port = await command.ready();
  using clients = await greetMany(port, 1); // it delays the end
  await exchangeMany(port, 3500);
  command.kill("SIGTERM");
  await waitUntilFree(port); // the log is full, and has the shutdown
  pipe.read();
  await pipe.lines.find((line) => line.includes(" shutdown "));
  assertEquals(await ask(clients[0], "hoge"), "hoge");
  assertEquals(await command.code(), 0);
  await pipe.lines.find((line) => line.includes(" summary echoed=3501 "));
  const lines = pipe.lines.all.filter((line) => line.includes(" shutdown "));
  assertEquals(lines.length, 1);
});

withPipe(
  "log: lines of two processes on one pipe do not interleave",
  async () => {
    const COUNT = 800; // the pipe holds fewer, so both have to wait for room
    await using pipe = new Pipe();
    const start = () =>
      new ServerProcess(["-p0", "-v"], redirected(`2>${pipe.path}`, MAIN));
    await using one = start();
    await using two = start();
    const ports = [await one.ready(), await two.ready()];
    await Promise.all(ports.map((port) => exchangeMany(port, COUNT)));
    pipe.read(1000); // room for so little that large writes would interleave
    for (const line of await pipe.lines.waitFor(2 * COUNT)) {
      assertMatch(line, /^\S+Z exchange( [a-z]+=[^ =]+){4}$/);
    }
  },
);

for (const flag of ["--verbose", "--timeout=60"]) {
  withTerminal(
    `log: a closed terminal disturbs no exchange or shutdown, with ${flag}`,
    async () => {
      // In its own session, so that it does not get SIGHUP.
      const run = `echo pid=$$; exec "$0" run --allow-net main.ts -p0 ${flag}`;
      await using terminal = onTerminal(
        `setsid sh -c '${run}' '${Deno.execPath()}' & wait`,
      );
      const [, pid] = await terminal.shows(/pid=(\d+)\r/);
      try {
        const [, port] = await terminal.shows(/listening on .*:(\d+)\r/);
        using clients = await greetMany(Number(port), 50);
        await terminal[Symbol.asyncDispose]();
        await exchangeMany(Number(port), 200);
        Deno.kill(Number(pid), "SIGTERM");
        await waitUntilFree(Number(port));
        for (const conn of clients) {
          assertEquals(await ask(conn, "hoge"), "hoge");
        }
      } finally {
        tryKill(Number(pid));
      }
    },
  );
}

withTerminal("log: Ctrl-S in the terminal blocks no exchange", async () => {
  await using terminal = onTerminal(
    `exec '${Deno.execPath()}' run --allow-net main.ts -p0 -v`,
  );
  const [, port] = await terminal.shows(/listening on .*:(\d+)\r/);
  await terminal.write("\x13");
  await exchangeMany(Number(port), 300);
  await terminal.write("\x11");
  await terminal.shows(/outcome=echoed/);
  await terminal.write("\x03");
  await terminal.shows(/summary echoed=300 /);
  assertEquals(await terminal.code(), 0);
});

/** A log in a file, whose size can be limited. */
async function startWithLimit(...args: string[]) {
  const { path, ...disposable } = await folder();
  const log = `${path}/log`;
  const command = new ServerProcess(
    ["-p0", "-v", ...args],
    redirected(`2>${log}`, MAIN),
  );
  return {
    command,
    limitTo: (bytes: number | "unlimited") =>
      output([
        "prlimit",
        `--pid=${command.pid}`,
        `--fsize=${bytes}:unlimited`,
      ]),
    size: async () => (await Deno.stat(log)).size,
    /** Checks each line; returns how many exchanges were logged and lost. */
    async count() {
      const lines = (await Deno.readTextFile(log)).trimEnd().split("\n");
      for (const line of lines) {
        assertMatch(line, /^\S+Z \S+( [a-z_]+=[^ =]+)+$/);
      }
      const written = lines.filter((line) => line.includes(" exchange "));
      return { written: written.length, lost: lostIn(lines) };
    },
    async [Symbol.asyncDispose]() {
      await command[Symbol.asyncDispose]();
      await disposable[Symbol.asyncDispose]();
    },
  };
}

const withLimit = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read", "write"], ["prlimit"], `log: ${name}`, fn);

withLimit(
  "the size limit of files affects no exchange, nor a line",
  async () => {
    await using server = await startWithLimit();
    const { command, limitTo } = server;
    const port = await command.ready();
    await limitTo(3000); // so the last line is cut somewhere
    await exchangeMany(port, 100);
    while (await server.size() < 3000) await turn();
    await limitTo("unlimited");
    await exchangeMany(port, 10);
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
    const { written, lost } = await server.count();
    assert(lost > 0);
    assertEquals(written + lost, 110);
  },
);

withLimit("lines stay counted if the report of them is lost too", async () => {
  await using server = await startWithLimit("--grace=60");
  const { command, limitTo } = server;
  const port = await command.ready();
  using clients = await greetMany(port, 2);
  await limitTo(0);
  await exchangeMany(port, 5);
  await delay(100); // a slow machine proves less, here and below
  const shutdown = "shutdown signal=SIGTERM clients=2 grace_ms=60000\n";
  const time = new Date().toISOString();
  const size = `${time} ${shutdown}`.length;
  await limitTo(await server.size() + size); // no room for a report
  command.kill("SIGTERM");
  while (await server.size() < size) await turn();
  await delay(100);
  await limitTo("unlimited");
  for (const client of clients) assertEquals(await ask(client, "a"), "a");
  assertEquals(await command.code(), 0);
  const { written, lost } = await server.count();
  assertEquals(written + lost, 7);
});

withCommand(
  "log: closed stdout and stderr pipes do not end it",
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
