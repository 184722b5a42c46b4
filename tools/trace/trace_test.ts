import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { looking, parse, texts } from "../svg/parse.ts";
import { Child } from "../testing/child.ts";
import { folder, readFile } from "../testing/folder.ts";
import { needs, withFiles } from "../testing/needs.ts";
import { draw } from "./timeline_picture.ts";
import { format, type Row } from "./timeline.ts";
import { MODES, traceGo, traceMode } from "./trace.ts";
import { traceTwoClients } from "./two_clients.ts";

/** Who does what in a timeline, in order, without what varies between runs. */
function shapeOf(timeline: string): Record<string, string[]> {
  const [header, ...lines] = timeline.trimEnd().split("\n");
  const starts = ["client 1", "client 2", "service", "what for"]
    .map((title) => header.indexOf(title));
  const shape: Record<string, string[]> = {};
  for (const line of lines) {
    const [client1, client2, service, why] = starts
      .map((start, i) => line.slice(start, starts[i + 1]).trim());
    // When the service wakes up, and for how many events, varies.
    if (/^(epoll_p?wait|EPOLL)/.test(service)) continue;
    const who = client1
      ? "client 1"
      : client2
      ? "client 2"
      : `service, ${why.match(/^client \d/)?.[0] ?? "listener"}`;
    const what = [client1, client2, service, why].join(" ").trim()
      .replace(/\d+/g, "N");
    const all = shape[who] ??= [];
    if (all.at(-1) !== what) all.push(what); // EAGAIN can come again
  }
  return shape;
}

/** Whether client 2 was greeted while client 1 was still connected. */
function isServedAtOnce(timeline: string): boolean {
  const greeting = timeline.indexOf("client 2: the greeting");
  const close = timeline.indexOf("client 1: closed");
  assert(greeting > 0 && close > 0, timeline);
  return greeting < close;
}

for (const mode of MODES) {
  withFiles(
    `trace: docs/kernel.md shows what the kernel sees of --mode ${mode}`,
    async () => {
      const docs = readFile("docs/kernel.md");
      const command = `$ deno task trace --mode ${mode}\n`;
      const [, shown] = docs.match(RegExp(`\\${command}([^]*?)\`\`\``)) ?? [];
      assert(shown, `docs/kernel.md does not show ${command}`);

      const rows = await traceMode(mode);
      const seen = format(rows);
      assertEquals(shapeOf(seen), shapeOf(shown));
      assertEquals(isServedAtOnce(seen), mode !== "serial");
      assertEquals(isServedAtOnce(shown), mode !== "serial");
      assertEquals(draw("", rows).includes(">waits<"), mode === "serial");
    },
    ["strace", "setpriv", "ss"],
  );
}

Deno.test("trace: lanes show who waits, and for how long", () => {
  const begin = 1e12;
  const rows: Row[] = [
    { time: begin, client1: "connects" },
    { time: begin + 0.1, service: "accept4(3) = 4", why: "client 1: accepted" },
    { time: begin + 0.2, client1: 'gets "Hello"' },
    { time: begin + 10, client2: "connects" },
    { time: begin + 10.1, client2: 'sends "<fuga>"' },
    { time: begin + 20, client2: "waits in the queue" },
    { time: begin + 30.1, client1: 'sends "hoge"' },
    { time: begin + 31, client1: "gets EOF" },
  ];
  const elements = parse(draw('a <script> & "b"', rows));
  assertEquals(
    texts(elements),
    [
      ...['a <script> & "b"', "ms", "client 1", "client 2", "queue", "service"],
      ...[
        "0",
        "10",
        "30",
        "31",
        "connects",
        "accept4",
        "← Hello",
        "hoge →",
        "← EOF",
      ],
      ...["connects", "<fuga> →", "silent", "waits", "sleeps"],
      "Pale: not greeted yet. Pauses are to scale.",
    ],
  );
  const at = (what: string, nth = 0) =>
    Number(elements.filter(({ text }) => text === what)[nth].y);
  assertEquals(at("hoge →") - at("<fuga> →"), 110, "the longest pause");
  assertEquals(at("waits"), (at("hoge →") + at("<fuga> →")) / 2);
  assertEquals(at("← Hello") - at("connects"), 17, "not on top of each other");
  const [brief, queued] = looking(elements, "two");
  assert(Number(brief.height) > 0, "a short one can be seen");
  const [pale] = looking(elements, "two pale");
  assertEquals([queued.y, queued.height], [pale.y, pale.height]);
  const bottom = Number(queued.y) + Number(queued.height);
  assertEquals(Number(queued.y) + 4, at("connects", 1));
  assertEquals(bottom + 4, at("← EOF"), "it waits until the end");
});

/** Traces one of the diary's programs on a free port. */
async function traceDiary(name: string): Promise<string> {
  await using dir = await folder();
  const source = readFile(`tools/trace/diary/${name}.go`);
  const file = `${dir.path}/${name}.go`;
  await Deno.writeTextFile(file, source.replace(":30000", ":0"));
  return format(await traceGo(file));
}

withFiles(
  "trace: shows what the kernel sees of the diary's programs in Go",
  async () => {
    for (const name of MODES) {
      const seen = await traceDiary(name);
      assertEquals(isServedAtOnce(seen), name !== "serial");
      // The diary's last program echoes its whole buffer.
      const echo = (text: string) =>
        name === "events" ? "gets N bytes" : `gets "${text}"`;
      const greeting = 'gets "Hello World!"';
      const shape = shapeOf(seen);
      const connect = ["connects", "is connected"];
      assertEquals(
        shape["client 1"],
        [...connect, greeting, 'sends "hoge"', echo("hoge"), "gets EOF"],
      );
      assertEquals(
        shape["client 2"].filter((step) => !step.startsWith("waits")),
        [...connect, 'sends "fuga"', greeting, echo("fuga"), "gets EOF"],
      );
      assertEquals(
        shape["service, client 2"].at(-1),
        "close(N) = N client N: closed",
      );
    }
  },
  ["strace", "setpriv", "ss", "go"],
);

const ENDS = `const listener = Deno.listen({ port: 0 });
console.log("wait...");
for (let i = 0; i < 2; i++) {
  using conn = await listener.accept();
  await conn.write(new TextEncoder().encode("Hello World!"));
  await conn.read(new Uint8Array(99));
}
Deno.exit();`;

withFiles("trace: a server that ends by itself is traced too", async () => {
  const rows = await traceTwoClients([Deno.execPath(), "eval", ENDS]);
  assert(!isServedAtOnce(format(rows)));
}, ["strace", "setpriv", "ss"]);

needs(
  ["run", "read"],
  ["strace", "setpriv", "ss", "go"],
  "trace: a failure is one line on stderr",
  async () => {
    for (
      const [code, line, ...args] of [
        [2, 'unknown option "--mod=serial"', "--mod=serial"],
        [2, '--mode: "x" is not one of', "--mode", "x"],
        [2, "--mode: a program in Go", "--mode", "serial", "--go", "x.go"],
        [1, "none.go: no such file", "--go", "none.go"],
        [1, "README.md: not a .go file", "--go", "README.md"],
      ] as const
    ) {
      const program = "deno run --allow-run --allow-read tools/trace/trace.ts";
      await using trace = new Child(
        [...program.split(" ").with(0, Deno.execPath()), ...args],
      );
      assertEquals(await trace.code(), code);
      assertEquals(trace.stdout.text, "");
      assertEquals(trace.stderr.all.length, 1);
      assertStringIncludes(trace.stderr.text, `trace: ${line}`);
    }
  },
);
