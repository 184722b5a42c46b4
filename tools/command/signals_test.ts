/** Signals: what ends the command, and how. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { after } from "../testing/child.ts";
import {
  onTerminal,
  runMain,
  ServerProcess,
  withTerminal,
} from "../testing/command.ts";
import { folder } from "../testing/folder.ts";
import { bytesOf, GREETING, textOf } from "../testing/bytes.ts";
import {
  ask,
  connect,
  connectMany,
  greetMany,
  readAll,
  readExactly,
} from "../testing/clients.ts";
import {
  killSocket,
  queueOf,
  SS_KILL,
  withCommand,
  withFiles,
} from "../testing/needs.ts";
import { Pipe } from "../testing/pipe.ts";
import { delay, retry, stopwatch, tryWithin, turn } from "../testing/timing.ts";

/** What a later signal ends the process with. */
const CODES = [["SIGHUP", 129], ["SIGINT", 130], ["SIGTERM", 143]] as const;

withCommand(
  "signals: SIGTERM, the grace, and a clean EOF for idle clients",
  () =>
    tryWithin([0.5, 2, 8], async (grace) => {
      await using command = new ServerProcess(["-p0", `--grace=${grace}`]);
      using clients = await greetMany(await command.ready(), 2);
      const [idle, busy] = clients;
      const sinceSignal = stopwatch();
      command.kill("SIGTERM");
      await command.event("shutdown");
      const echo = await ask(busy, "in time").catch(String);
      if (echo !== "in time" && sinceSignal() >= grace) return "late";
      assertEquals(echo, "in time");
      assertEquals(await idle.read(new Uint8Array(1)), null);
      assertEquals(await command.code(), 0);
      if (sinceSignal() >= 10) return "late"; // that is the default
      assertMatch(
        await command.event("summary"),
        /echoed=1 eof=0 timeout=0 reset=0 shutdown=1 error=0$/,
      );
    }),
);

withCommand(
  "signals: SIGTERM that arrives twice is one request of a busy process",
  () =>
    retry(20, async () => {
      const limit = 0.05; // seconds
      await using command = new ServerProcess(["-p0"]);
      using clients = await greetMany(await command.ready(), 1);
      const sinceSignal = stopwatch();
      command.kill("SIGTERM");
      await command.event("shutdown");
      command.kill("SIGSTOP");
      const isLate = sinceSignal() >= limit;
      command.kill("SIGTERM");
      await delay(150);
      const sinceContinue = stopwatch();
      command.kill("SIGCONT");
      const echo = await ask(clients[0], "last words").catch(String);
      const code = await command.code();
      if (code !== 0 && (isLate || sinceContinue() >= limit)) return "late";
      assertEquals(code, 0);
      assertEquals(echo, "last words");
    }),
);

for (const [signal, laterCode] of CODES) {
  withCommand(
    `signals: ${signal} that arrives twice is one request`,
    () =>
      retry(20, async () => {
        const limit = 0.1; // seconds
        await using command = new ServerProcess(["-p0"]);
        const port = await command.ready();
        using clients = await greetMany(port, 50);
        const sinceSignal = stopwatch();
        command.kill(signal);
        command.kill(signal);
        const line = await command.event("shutdown").catch(() => undefined);
        command.kill(signal);
        const isLate = sinceSignal() >= limit;
        const echoes = await Promise.all(
          clients.map((conn) => ask(conn, "last words").catch(String)),
        );
        const code = await command.code();
        if (code !== 0 && isLate) return "late";
        assertEquals(code, 0);
        assertMatch(`${line}`, / clients=50 grace_ms=10000$/);
        assertEquals(echoes, clients.map(() => "last words"));
        assertEquals(command.stderr.all.length, 2);
      }),
  );

  withCommand(
    `signals: a ${signal} that comes later ends it at once`,
    () =>
      retry(10, async () => {
        const limit = 0.5; // seconds
        await using command = new ServerProcess(["-p0", "--grace=60"]);
        using _idle = await greetMany(await command.ready(), 1);
        const seconds = await command.killRepeatedly(signal);
        assertEquals(await command.code(), laterCode);
        if (seconds >= limit) return "late";
      }),
  );
}

withCommand(
  "signals: a later one of another kind ends it too",
  () =>
    retry(10, async () => {
      await using command = new ServerProcess(["-p0", "--grace=60"]);
      using _idle = await greetMany(await command.ready(), 1);
      command.kill("SIGTERM");
      await command.event("shutdown");
      await delay(200);
      const seconds = stopwatch();
      command.kill("SIGINT");
      while (!command.ended && seconds() < 1) await delay(10);
      if (!command.ended) return "late"; // the first was handled late
      assertEquals(await command.code(), 130);
    }),
);

withCommand("signals: SIGTERM under load loses no exchange", async () => {
  await using command = new ServerProcess(["-p0"]);
  const port = await command.ready();
  using greeted = await greetMany(port, 200);
  command.kill("SIGSTOP"); // so that the next ones wait in the kernel's queue
  using queued = await connectMany(port, 500);
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
    /echoed=700 eof=0 timeout=0 reset=0 shutdown=0 error=0$/,
  );
}, [queueOf(500)]);

withTerminal(
  "signals: Ctrl-C under deno task start lets exchanges finish",
  async () => {
    await using terminal = onTerminal(
      `'${Deno.execPath()}' task start -- -p 0`,
    );
    const [, port] = await terminal.shows(/listening on .*:(\d+)\r/);
    using clients = await greetMany(Number(port), 20);
    await terminal.write("\x03");
    await terminal.shows(
      /shutdown signal=SIGINT clients=20 grace_ms=10000 \(Ctrl-C again quits at once\)\r/,
    );
    for (const conn of clients) {
      assertEquals(await ask(conn, "hoge"), "hoge");
    }
    await terminal.shows(/summary echoed=20 .* error=0\r/);
    // The service has ended with 0. `deno task` itself dies of the signal, with
    // 130, if it gets round to it only now (4 times out of 40 if it is stopped).
    const code = await terminal.code();
    assert(code === 0 || code === 130, `exit code ${code}`);
  },
);

const UNIX = "--unix=none/a";
const TLS = "--cert=none/a --key=none/b";
for (
  const [permissions, listener, asks] of [
    ["--deny-env", "-p0", 'net access to "0.0.0.0:0"'],
    ["--allow-net", UNIX, 'read access to "none/a"'],
    ["--allow-read --allow-net", UNIX, 'write access to "none/a"'],
    ["--allow-read --allow-write", UNIX, 'net access to "unix:/'],
    ["--allow-net", TLS, 'read access to "none/a"'],
    ["--allow-net --allow-read=none/a", TLS, 'read access to "none/b"'],
  ]
) {
  withTerminal(
    `signals: Ctrl-C ends Deno's permission prompt, ${permissions} ${listener}`,
    async () => {
      await using terminal = onTerminal(
        `exec '${Deno.execPath()}' run ${permissions} main.ts ${listener}`,
      );
      await terminal.shows(/Allow\?/);
      assert(terminal.stdout.text.includes(asks), terminal.stdout.text);
      await terminal.write("\x03");
      assertEquals(await terminal.code(), 130);
    },
  );
}

withTerminal("signals: SIGTERM prints no hint about Ctrl-C", async () => {
  await using terminal = onTerminal(
    `'${Deno.execPath()}' run --allow-net main.ts -p0 & echo pid=$!; wait $!`,
  );
  const [, pid] = await terminal.shows(/pid=(\d+)\r/);
  await terminal.shows(/listening on/);
  Deno.kill(Number(pid), "SIGTERM");
  await terminal.shows(/shutdown signal=SIGTERM clients=0 grace_ms=10000\r/);
  assertEquals(await terminal.code(), 0);
});

withFiles("signals: a terminal that closes leaves no socket file", async () => {
  await using dir = await folder();
  const path = `${dir.path}/a`;
  const files = () => [...Deno.readDirSync(dir.path)].length;
  const permissions = // which suffice: it asks for no more
    `--allow-net=unix:${path} --allow-read=${path} --allow-write=${path}`;
  {
    await using terminal = onTerminal(
      `exec '${Deno.execPath()}' run ${permissions} main.ts --unix ${path}`,
    );
    const [line] = await terminal.shows(/listening on|Allow\?/);
    assertEquals(line, "listening on");
    assertEquals(files(), 1);
  }
  while (files() > 0) await turn(); // without a shutdown, it stays
}, ["script"]);

withFiles(
  "signals: SIGTERM does not hide that the listener has died",
  () =>
    retry(10, async () => {
      await using pipe = await Pipe.full();
      await using command = new ServerProcess(
        ["-p0", "--grace=0"],
        after(`exec 2>${pipe.path}`, runMain("--allow-net")),
      );
      const port = await command.ready();
      using idle = await connect(port);
      await readExactly(idle, GREETING.length);
      assert(killSocket(port));
      assertEquals(await idle.read(new Uint8Array(1)), null); // it gives up
      await delay(100); // now it waits up to a second for the log's reader
      command.kill("SIGTERM");
      const code = await command.code();
      if (code === 0) return "late"; // the signal was first
      assertEquals(code, 1);
    }),
  ["mkfifo", SS_KILL],
);
