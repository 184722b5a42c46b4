import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeClock } from "./fake_clock.ts";
import { delay } from "./timing.ts";

Deno.test("fake clock: timers fire in order, at their time", async () => {
  using clock = new FakeClock();
  const fired: [string, number][] = [];
  const note = (name: string) => fired.push([name, performance.now()]);
  const last = delay(1e9).then(() => note("last"));
  setTimeout(() => note("first"), 5);
  setTimeout(() => note("second"), 5);
  clearTimeout(setTimeout(() => note("cleared"), 1));
  setTimeout(() => note("at once"), 0);
  assertEquals(clock.pending, 4);
  await clock.run(last);
  assertEquals(fired, [
    ["at once", 0],
    ["first", 5],
    ["second", 5],
    ["last", 1e9],
  ]);
  assertEquals(clock.moment, { at: 1e9, turn: 4 });
});

Deno.test("fake clock: it stands still until it is advanced", async () => {
  using clock = new FakeClock();
  const fired: number[] = [];
  for (const ms of [10, 20, 30]) setTimeout(() => fired.push(ms), ms);
  await delay(0);
  assertEquals([performance.now(), ...fired], [0]);
  clock.advance(20);
  assertEquals([performance.now(), ...fired], [20, 10, 20]);
  clock.clear();
});

Deno.test("fake clock: everything else comes before the next timer", async () => {
  using clock = new FakeClock();
  let done = 0;
  (async () => {
    for (; done < 1000; done++) await (done % 100 ? undefined : delay(0));
  })();
  await clock.run(delay(1));
  assertEquals(done, 1000);
});

Deno.test("fake clock: what can never settle is an error", async () => {
  using clock = new FakeClock();
  const never = new Promise(() => {});
  await assertRejects(() => clock.run(never), Error, "never settles");
  const again = () => void setTimeout(again, clock.turn % 2);
  again();
  await assertRejects(() => clock.run(never), Error, "never settles");
  clock.clear();
});

Deno.test("fake clock: in the end the real one is back", async () => {
  const real = [setTimeout, clearTimeout];
  const before = performance.now();
  {
    using _ = new FakeClock();
    assert(setTimeout !== real[0]);
    assertEquals(performance.now(), 0);
  }
  assertEquals([setTimeout, clearTimeout], real);
  await delay(0);
  assert(performance.now() >= before);
});
