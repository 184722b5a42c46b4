/** Which options are accepted, and what types say. */

import { assertEquals, assertThrows } from "@std/assert";
import { serve, type ServeOptions } from "../../server.ts";
import { MemoryListener } from "../testing/memory_network.ts";

Deno.test("wrong options throw and name the option", () => {
  const wrong: [unknown, typeof TypeError | typeof RangeError][] = [
    [{ greeting: 1 }, TypeError],
    [{ maxBytes: 0 }, RangeError],
    [{ maxBytes: 1.5 }, RangeError],
    [{ maxBytes: NaN }, RangeError],
    [{ maxBytes: 2 ** 30 + 1 }, RangeError],
    [{ maxBytes: "1024" }, TypeError],
    [{ timeout: -1 }, RangeError],
    [{ timeout: NaN }, RangeError],
    [{ timeout: Infinity }, RangeError],
    [{ timeout: 2 ** 31 }, RangeError],
    [{ timeout: "1" }, TypeError],
    [{ grace: -1 }, RangeError],
    [{ grace: NaN }, RangeError],
    [{ grace: Infinity }, RangeError],
    [{ grace: 2 ** 31 }, RangeError],
    [{ grace: "1" }, TypeError],
    [{ maxConnections: 0 }, RangeError],
    [{ maxConnections: 1.5 }, RangeError],
    [{ maxConnections: null }, TypeError],
    [{ mode: "fast" }, TypeError],
    [{ signal: {} }, TypeError],
    [{ onExchange: "log" }, TypeError],
    [{ onAcceptError: true }, TypeError],
  ];
  for (const [options, type] of wrong) {
    const [name] = Object.keys(options as Record<string, unknown>);
    const listener = new MemoryListener();
    assertThrows(() => serve(listener, options as ServeOptions), type, name);
    assertEquals(listener.closed, true); // nobody else could close it
  }
});

Deno.test("options that are no object are refused in plain words", () => {
  for (const options of [null, 1, "serial"]) {
    const listener = new MemoryListener();
    const call = () => serve(listener, options as unknown as ServeOptions);
    assertThrows(call, TypeError, "options must be an object");
    assertEquals(listener.closed, true);
  }
});

Deno.test("what is not a listener is refused", () => {
  for (const options of [{ port: 0 }, undefined, null, "30000"]) {
    const listener = options as unknown as MemoryListener;
    assertThrows(() => serve(listener), TypeError, "listener must be");
  }
});

Deno.test("the largest and the smallest options are accepted", async () => {
  const accepted: ServeOptions[] = [
    { maxBytes: 1, timeout: 0, grace: 0, maxConnections: 1 },
    { maxBytes: 2 ** 30, timeout: 2 ** 31 - 1, grace: 2 ** 31 - 1 },
  ];
  for (const options of accepted) {
    await serve(new MemoryListener(), options).shutdown();
  }
});

Deno.test("the server's address has its listener's type", async () => {
  await using server = serve(new MemoryListener());
  const port: number = server.addr.port; // no cast
  assertEquals(port, 7);
  // @ts-expect-error: the address of a Unix socket has no port
  ((listener: Deno.UnixListener) => serve(listener).addr.port);
  ((listener: Deno.UnixListener): string | null => serve(listener).addr.path);
});
