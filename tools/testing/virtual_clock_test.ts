import { assert, assertEquals } from "@std/assert";
import { VirtualClock } from "./virtual_clock.ts";

Deno.test("virtual clock: timers fire in order, at their time", async () => {
  using clock = new VirtualClock();
  const fired: [string, number][] = [];
  const note = (name: string) => fired.push([name, performance.now()]);
  setTimeout(() => note("late"), 1e9);
  setTimeout(() => note("first"), 5);
  setTimeout(() => note("second"), 5);
  clearTimeout(setTimeout(() => note("cleared"), 1));
  clock.sleep(7).then(() => note("sleeper"));
  assertEquals(clock.pending, 3);
  assertEquals(await clock.run(() => false, 10), false);
  assertEquals(fired, [
    ["first", 5],
    ["second", 5],
    ["sleeper", 7],
    ["late", 1e9],
  ]);
});

Deno.test("virtual clock: everything else comes before the next timer", async () => {
  using clock = new VirtualClock();
  let microtasks = 0;
  let seen = 0;
  setTimeout(() => seen = microtasks, 0);
  (async () => {
    for (; microtasks < 1000; microtasks++) await undefined;
  })();
  await clock.run(() => seen > 0, 10);
  assertEquals(seen, 1000);
});

Deno.test("virtual clock: it stops when it is told, or after so many turns", async () => {
  using clock = new VirtualClock();
  const again = () => void setTimeout(again, 1);
  again();
  assertEquals(await clock.run(() => clock.now === 3, 100), true);
  assertEquals(await clock.run(() => false, 100), false);
  assertEquals(clock.moment, { at: 103, turn: 103 });
});

Deno.test("virtual clock: in the end the real one is back", async () => {
  const real = [setTimeout, clearTimeout];
  const before = performance.now();
  {
    using _ = new VirtualClock();
    assert(setTimeout !== real[0]);
    assertEquals(performance.now(), 0);
  }
  assertEquals([setTimeout, clearTimeout], real);
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert(performance.now() >= before);
});
