import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import net from "node:net";
import { looking, parse, texts } from "../svg/parse.ts";
import { Child, output, tryKill } from "../testing/child.ts";
import { runTask } from "../testing/command.ts";
import { folder } from "../testing/folder.ts";
import { type Need, needs, withFiles } from "../testing/needs.ts";
import { stopwatch } from "../testing/timing.ts";
import { parseOptions } from "./options.ts";
import { draw } from "./chart.ts";
import { median, ratios } from "./report.ts";
import { cc } from "./servers.ts";
import type { Versions } from "./versions.ts";

/** One short round with this service only. */
const TINY = ["--rounds=1", "--seconds=0.2", "--warm-up=0", "--only=service"];

const TWO_PROCESSORS: Need = {
  name: "two processors",
  isMet: () => navigator.hardwareConcurrency > 1,
};

function withCompare(
  name: string,
  fn: (tempDir: string) => Promise<void>,
): void {
  withFiles(name, async () => {
    await using dir = await folder();
    await fn(dir.path);
    assertEquals([...Deno.readDirSync(dir.path)], [], "files are left");
  }, ["cc", "setpriv", "taskset", "ps", TWO_PROCESSORS]);
}

/** Starts the command as `deno task compare` does. */
function start(args: string[], tempDir: string): Child {
  const program = [...runTask("compare"), ...args];
  return new Child(program, { env: { TMPDIR: tempDir } });
}

/** Runs the command to its end; returns the last row of its table, by title. */
async function lastRow(
  args: string[],
  tempDir: string,
): Promise<Record<string, string>> {
  await using compare = start(args, tempDir);
  assertEquals(await compare.code(), 0, compare.stderr.text);
  const table = compare.stdout.all.filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  assertEquals(table.length, 3, "titles, a rule and one server");
  return Object.fromEntries(
    table[0].map((title, column) => [title, table[2][column]]),
  );
}

withCompare("compare: loads this service without an error", async (tempDir) => {
  const svg = `${tempDir}/a.svg`;
  const row = await lastRow([...TINY, "--clients=4", "--svg", svg], tempDir);
  assertStringIncludes(await Deno.readTextFile(svg), ">this service</text>");
  await Deno.remove(svg);
  assertEquals(row.server, "this service");
  assertEquals(row.errors, "0");
  assert(Number(row.exchanges) >= 4);
  assert(Number(row["p99, ms"]) >= Number(row["p50, ms"]));
  assert(Number(row["memory, MB"]) > 0);
  const [cpu, user] = [Number(row["CPU, µs"]), Number(row["user, µs"])];
  assert(user > 0 && cpu > user && cpu < 10_000, `${cpu}, ${user} µs`);
  assertEquals(row["ratio, min"], "-", "one round has no spread");
});

withCompare("compare: lets every held client finish", async (tempDir) => {
  const row = await lastRow([...TINY, "--held=20"], tempDir);
  assertEquals(row.server, "this service");
  assertEquals(row.exchanges, "20");
  assertEquals(row.errors, "0");
  assert(Number(row["idle client, kB"]) > 0);
});

withCompare(
  "compare: leaves nothing behind when interrupted",
  async (tempDir) => {
    await using compare = start([...TINY, "--seconds=25"], tempDir);
    let started: number[] = [];
    try {
      const isLoad = (child: string) => child.endsWith(" 25");
      for (let children: string[] = []; !children.some(isLoad);) {
        assert(!compare.ended, compare.stderr.text);
        children = await childrenOf(compare.pid);
        started = children.map((child) => parseInt(child));
      }
      const seconds = stopwatch();
      compare.kill("SIGINT");
      assertEquals(await compare.code(), 130);
      assert(seconds() < 15, "it waited for the load to end");
      assertEquals(compare.stdout.text, "");
      assertEquals(compare.stderr.text, "round 1 of 1: service\n");
      assertEquals(started.filter(isRunning), []);
    } finally {
      started.forEach((pid) => tryKill(pid));
    }
  },
);

/** The children of a process, each with its command. */
async function childrenOf(pid: number): Promise<string[]> {
  const ps = ["ps", "-ww", "-o", "pid=,args=", "--ppid", `${pid}`];
  const children = await output(ps).catch(() => ""); // it has none
  return children.split("\n").filter((child) => child !== "");
}

function isRunning(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT");
    return true;
  } catch {
    return false;
  }
}

/** What a server does with a client: all of it wrong, but for the first. */
const ANSWERS: ((socket: net.Socket, message: string) => void)[] = [
  (socket, message) => socket.end(message),
  (socket, message) => socket.end(message.toUpperCase()),
  (socket, message) => socket.end(message + "x"),
  (socket, message) => socket.end(message.slice(1)),
  (socket, message) => socket.end(message.slice(0, -1)),
  (socket) => socket.end(),
  (socket) => socket.resetAndDestroy(),
];

withCompare(
  "echoload: tells right exchanges from wrong ones",
  async (tempDir) => {
    let clients = 0;
    const server = net.createServer((socket) => {
      const answer = ANSWERS[clients++];
      socket.on("error", () => {});
      socket.write(
        answer === undefined ? "Hello world!\r\n" : "Hello World!\r\n",
      );
      socket.once("data", (data) => answer(socket, data.toString()));
    });
    await new Promise<void>((go) => server.listen(0, "127.0.0.1", go));
    const { port } = server.address() as net.AddressInfo;
    const binary = `${tempDir}/echoload`;
    await output(cc(binary, "echoload.c"));
    const result = JSON.parse(
      await output([binary, `${port}`, `${ANSWERS.length + 1}`, "0"]),
    );
    server.close();
    await Deno.remove(binary);
    assertEquals(result.exchanges, 1);
    assertEquals(result.failures, {
      connect: 0,
      reset: 1,
      early_eof: 2,
      wrong_bytes: 4,
      timeout: 0,
      other: 0,
    });
  },
);

Deno.test("compare: the median of an even count is between the middle two", () => {
  assertEquals(median([7]), 7);
  assertEquals(median([10, 9, 100]), 10);
  assertEquals(median([4, 1, 3, 100]), 3.5);
});

Deno.test("compare: ratios are taken round by round", () => {
  assertEquals(ratios([10, 30, 20], [10, 10, 40]), {
    min: 0.5,
    median: 1,
    max: 3,
  });
});

Deno.test("compare: bars show values and their spread", () => {
  const labels = ["Go, goroutines", "C <&> `co`", "this service"];
  const values = [[1, 1, 1], [0.5, 2, 4], [NaN, Infinity, NaN]];
  const svg = draw({
    options: parseOptions([]),
    versions: {} as Versions,
    rows: labels.map((label, row) => ({
      server: { name: label, label, command: [] },
      samples: values[row].map((value) => ({
        values: { cpu_us: value, p99_ms: value },
        exchanges: 1,
        failures: {},
      })),
    })),
  });
  const elements = parse(svg);
  assertEquals(
    texts(elements),
    [
      ...["64 clients at once", "Go, goroutines", "C <&> co", "this service"],
      ...["processor time, Go = 1", "1.00", "2.00", "-"],
      ...["p99 latency, ms", "1", "2", "-"],
      "Bars: medians of 7 rounds. Lines: lowest to highest.",
    ],
  );
  assert(!/NaN|Infinity|undefined/.test(svg));
  const [go, c] = looking(elements, "bar");
  assertEquals(Number(c.width), 2 * Number(go.width));
  assertEquals(looking(elements, "one").map(({ width }) => width), ["0", "0"]);
  const spread = looking(elements, "spread")[1];
  assertEquals(Number(spread.x1) - Number(c.x), Number(c.width) / 4);
  assertEquals(Number(spread.x2) - Number(c.x), Number(c.width) * 2);
  assertEquals(looking(elements, "dashed").length, 3);
});

Deno.test("compare: reads its options", () => {
  const options = parseOptions([
    ...["--rounds", "3", "--warm-up", "0", "--only", "go,service"],
    ...["--with", "old=cd ../old && A=1 deno task start --port {port}"],
    ...["--with=b={port}", "--svg", "a.svg"],
  ]);
  assertEquals(options, {
    rounds: 3,
    clients: 64,
    seconds: 2,
    warmUp: 0,
    held: 0,
    only: ["go", "service"],
    with: new Map([
      ["old", "cd ../old && A=1 deno task start --port {port}"],
      ["b", "{port}"],
    ]),
    svg: "a.svg",
  });
});

needs(
  ["run", "read"],
  [],
  "compare: refuses an option in one line",
  async () => {
    for (
      const [line, ...args] of [
        ['unknown option "--bogus"', "--bogus"],
        ['unknown argument "more"', "more"],
        ['--rounds: "0" is not a whole number from 1', "--rounds=0"],
        ['--seconds: "" is not a number from 0.1', "--seconds"],
        ['--only: "perl" is not one of go, epoll,', "--only=go,perl"],
        [
          '--with: "old=deno" is not NAME=COMMAND with {port}',
          "--with=old=deno",
        ],
      ]
    ) {
      await using compare = start(args, ".");
      assertEquals(await compare.code(), 2);
      assertEquals(compare.stdout.text, "");
      assertMatch(compare.stderr.text, /^compare: .*\n$/);
      assertStringIncludes(compare.stderr.text, line);
    }
  },
);
