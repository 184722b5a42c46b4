import { assertEquals } from "@std/assert";
import { Child } from "./child.ts";
import { withCommand } from "./needs.ts";

withCommand("child: an abort kills what it has started too", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const program = ["sh", "-c", "sleep 70 & echo; wait"];
  await using child = new Child(program, { signal });
  await child.line();
  controller.abort();
  // The second program has the pipes too: without its end there is none.
  assertEquals(await child.code(), 137);
});
