import { assert, assertEquals } from "@std/assert";
import { needs } from "./testing.ts";
import { trace } from "./trace.ts";

/** A call without what differs from run to run: its name, and how it ended. */
function shape(call: string): string {
  const name = call.match(/^\w+/)?.[0];
  const detail = call.match(/EAGAIN|EPOLL_CTL_\w+|SHUT_WR|SO_REUSEADDR/)?.[0];
  return detail === undefined ? `${name}` : `${name} ${detail}`;
}

needs(
  ["net", "run", "read", "write"],
  ["strace"],
  "trace: the README shows the calls that the kernel saw",
  async () => {
    const readme = await Deno.readTextFile(
      new URL("../README.md", import.meta.url),
    );
    const shown = readme.match(/\$ deno task trace\n([^]*?)```/)?.[1] ?? "";
    const calls = shown.split("\n").filter((line) => /^\w+\(/.test(line));
    assert(calls.length > 0, "the README shows no trace");

    const { start, exchange } = await trace();
    assertEquals(
      [...start, ...exchange].map(({ text }) => shape(text)),
      calls.map(shape),
    );
  },
);
