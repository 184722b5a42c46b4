/**
 * Soak: 200 000 exchanges with the command; one client in ten misbehaves.
 * Nothing may be lost, and nothing may leak. Before it counts, it warms up
 * until V8's heap has settled, so a short soak is as trustworthy as a long one.
 *
 * ```sh
 * deno task soak
 * deno task soak 20000
 * ```
 *
 * @module
 */

import { interruption } from "../testing/run_tool.ts";
import { runTask, ServerProcess } from "../testing/command.ts";
import { bytesOf, GREETING } from "../testing/bytes.ts";
import { connect, exchange, readAll, reset } from "../testing/clients.ts";
import { delay } from "../testing/timing.ts";

const USAGE = "usage: deno task soak [EXCHANGES]";
const [given = "200000", ...extra] = Deno.args;
if (given === "--help") {
  console.log(USAGE);
  Deno.exit();
}
if (!/^[1-9][0-9]*$/.test(given) || extra.length > 0) {
  console.error(USAGE);
  Deno.exit(2);
}
const STEPS = 10;
const TOTAL = STEPS * Math.ceil(Number(given) / STEPS);
const CLIENTS = 64;
const MISBEHAVES = 10;

const MESSAGE = "The quick brown fox jumps.\r\n";
const TOO_MUCH = new Uint8Array(5000);

/** What a client does wrong. */
const WRONG: ((port: number) => Promise<void>)[] = [
  (port) => reset(port, "connect"),
  (port) => reset(port, "data"),
  async (port) => {
    using conn = await connect(port);
    await conn.closeWrite(); // says nothing
    await readAll(conn);
  },
  async (port) => {
    using conn = await connect(port);
    await conn.write(TOO_MUCH);
    const { length } = await readAll(conn);
    if (length !== GREETING.length + 1024) lost(`too much: ${length} bytes`);
  },
  async (port) => {
    using conn = await connect(port);
    await conn.write(bytesOf(MESSAGE)); // and never reads
  },
];

let losses = 0;

function lost(what: string): void {
  losses++;
  console.error(`lost: ${what}`);
}

async function behave(port: number): Promise<void> {
  const answer = await exchange(port, MESSAGE);
  if (answer !== GREETING + MESSAGE) lost(JSON.stringify(answer));
}

// As `deno task start` runs it. Without its flag, V8's young generation grows
// for half a million exchanges, by steps that look like a leak.
await using command = new ServerProcess(
  ["--port", "0", "--timeout", "10"],
  ["setpriv", "--pdeathsig=KILL"] // it ends with this process, however
    .concat(runTask("start")),
);
const interrupted = interruption();
interrupted.addEventListener("abort", () => {
  command.kill("SIGKILL");
  Deno.exit(interrupted.reason);
});
const port = await command.ready();

/** Runs `count` exchanges, some of them side by side. */
async function run(count: number): Promise<void> {
  let next = 0;
  await Promise.all(Array.from({ length: CLIENTS }, async () => {
    for (let i; (i = next++) < count;) {
      const client = i % MISBEHAVES === 0
        ? WRONG[(i / MISBEHAVES) % WRONG.length]
        : behave;
      try {
        await client(port);
      } catch (error) {
        lost(String(error));
        if (command.ended) {
          const code = await command.code(); // and all that it printed
          const said = command.stderr.text.trim();
          console.error(`soak: the server ended with code ${code}: ${said}`);
          Deno.exit(1);
        }
      }
    }
  }));
}

async function report(done: number) {
  const descriptors = await command.descriptors();
  const rss = await command.residentMemory();
  console.log(`${done} exchanges: ${descriptors} descriptors, ${rss} kB`);
  return { descriptors, rss };
}

/** Runs exchanges until the memory has stopped reaching new heights. */
async function warmUp(): Promise<void> {
  let highest = 0;
  for (let calm = 0, batch = 0; calm < 6 && batch < 60; batch++) {
    await run(5000);
    const rss = await command.residentMemory();
    calm = rss > 1.01 * highest ? 0 : calm + 1;
    highest = Math.max(highest, rss);
  }
}

await warmUp();
const reports = [await report(0)];
for (let step = 1; step <= STEPS; step++) {
  await run(TOTAL / STEPS);
  reports.push(await report(step * TOTAL / STEPS));
}
// Some of the last connections may still be draining.
for (let tries = 0; tries < 50; tries++) {
  reports[STEPS].descriptors = await command.descriptors();
  if (reports[STEPS].descriptors <= reports[0].descriptors) break;
  await delay(100);
}

command.kill("SIGTERM");
const code = await command.code();
console.log(command.stderr.all.at(-1), "(with the warm-up)");

// The highest of each half: between collections V8's heap goes up and down.
const highest = (from: number, to?: number) =>
  Math.max(...reports.slice(from, to).map(({ rss }) => rss));
const first = reports[0], last = reports[STEPS];
const before = highest(0, STEPS / 2 + 1), after = highest(STEPS / 2 + 1);
const growth = after / before - 1;
console.log(`lost: ${losses}`);
console.log(
  `descriptors: ${first.descriptors} before, ${last.descriptors} after`,
);
console.log(
  `highest resident memory: ${before} kB in the first half, ` +
    `${after} kB in the second, ` +
    `${(100 * growth).toFixed(1)} %`,
);
const ok = losses === 0 && code === 0 &&
  last.descriptors <= first.descriptors && growth < 0.05;
console.log(ok ? "ok" : "FAILED");
Deno.exitCode = ok ? 0 : 1;
