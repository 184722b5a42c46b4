/** File descriptors: what happens without them, and that none leaks. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { after } from "../testing/child.ts";
import { runMain, ServerProcess } from "../testing/command.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import {
  ask,
  connectMany,
  exchange,
  readExactly,
  readText,
  reset,
} from "../testing/clients.ts";
import { queueOf, withCommand } from "../testing/needs.ts";
import { turn } from "../testing/timing.ts";

/** How to run the command so that it is soon out of file descriptors. */
const FEW = after("ulimit -n 64", runMain("--allow-net"));

withCommand(
  "descriptors: out of file descriptors, it backs off and recovers",
  async () => {
    await using command = new ServerProcess(["-p0", "-v"], FEW);
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
  [queueOf(200)],
);

withCommand("descriptors: a thousand resets leave nothing behind", async () => {
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

withCommand(
  "descriptors: out of file descriptors when the grace ends: the queue gets a clean EOF",
  async () => {
    await using command = new ServerProcess(["-p0", "--grace=0.3"], FEW);
    const port = await command.ready();
    using _silent = await connectMany(port, 50);
    await command.event("accept-error");
    using queued = await connectMany(port, 100);
    await Promise.all(queued.map((conn) => conn.write(bytesOf("hoge"))));
    command.kill("SIGTERM");
    for (const conn of queued) {
      assertEquals(await readText(conn), ""); // a reset would reject
    }
    assertEquals(await command.code(), 0);
  },
  [queueOf(150)],
);
