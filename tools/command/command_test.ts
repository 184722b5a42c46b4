/**
 * This room tests the command, `main.ts`: here from its start to its end; then
 * its file descriptors, what it listens on, its log, options and signals.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { runPretending, ServerProcess } from "../testing/command.ts";
import { after, output } from "../testing/child.ts";
import { folder, readFile } from "../testing/folder.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import {
  ask,
  connect,
  exchange,
  greetMany,
  readExactly,
  readText,
  send,
} from "../testing/clients.ts";
import {
  killSocket,
  SS_KILL,
  withCommand,
  withFiles,
} from "../testing/needs.ts";
import { delay, stopwatch, tryWithin } from "../testing/timing.ts";

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
    assertMatch(
      shutdown,
      /Z shutdown signal=SIGTERM clients=0 grace_ms=10000$/,
    );
    assertMatch(
      summary,
      /Z summary echoed=1 eof=0 timeout=0 reset=0 shutdown=0 error=0$/,
    );
    assertEquals(command.stderr.all.length, 3);
    assertEquals(command.stdout.all.length, 1);
    assertEquals(`${command.stderr.all}`.includes("secret"), false);
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

withFiles("command: deno install --global makes a command of it", async () => {
  await using dir = await folder();
  const root = dir.path;
  const deno = Deno.execPath();
  const readme = readFile("README.md");
  const [, args] = readme.match(/^deno (install .*) main\.ts$/m)!;
  await output([deno, ...args.split(" "), "--root", root, "main.ts"]);
  const bin = deno.slice(0, deno.lastIndexOf("/"));
  await using command = new ServerProcess(
    ["--port", "0", "--reuse-port"],
    after(`PATH="${bin}:$PATH"`, [`${root}/bin/echo-server`]), // finds deno
  );
  const port = await command.ready();
  assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
});

withCommand(
  "command: stopped for longer than the timeout: data that had arrived is echoed",
  () =>
    tryWithin([1, 4, 16], async (timeout) => {
      await using command = new ServerProcess(["-p0", `--timeout=${timeout}`]);
      const port = await command.ready();
      const sinceConnect = stopwatch();
      // So many that they cannot all be read in one turn of the event loop.
      using clients = await greetMany(port, 1000);
      command.kill("SIGSTOP");
      if (sinceConnect() >= timeout) return "late";
      await Promise.all(clients.map((conn) => conn.write(bytesOf("hoge"))));
      await delay(1000 * timeout + 100);
      command.kill("SIGCONT");
      const echoes = await Promise.all(clients.map(readText));
      assertEquals(echoes, clients.map(() => "hoge"));
    }),
);

withCommand(
  "command: a listener that has died ends the command with 1",
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
  [SS_KILL],
);

withCommand(
  "command: what ends the command is named, though one error a second is logged",
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

withCommand(
  "command: --timeout 0 turns TCP keep-alive on, as ss shows",
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
  ["ss"],
);
