/**
 * The command in its own process, and on a terminal.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { Child, output } from "./child.ts";
import { withCommand } from "./needs.ts";
import { delay, stopwatch } from "./timing.ts";

/** How to run `main.ts` with certain permissions. */
export const runMain = (...permissions: string[]) => [
  Deno.execPath(),
  "run",
  ...permissions,
  "main.ts",
];

/** How `deno task` runs a program. */
export const runTask = (name: keyof typeof denoJson.tasks) =>
  denoJson.tasks[name].split(" ").with(0, Deno.execPath());

/** Runs `main.ts` after a script that makes Deno pretend to be another. */
export const runPretending = (script: string, ...permissions: string[]) =>
  runMain(`--preload=data:application/javascript,${script}`, ...permissions);

/** The command in its own process. */
export class ServerProcess extends Child {
  /** Runs `program`, by default `main.ts`, with the arguments. */
  constructor(args: string[], program: string[] = runMain("--allow-net")) {
    super([...program, ...args]);
  }

  /** Waits until it listens; returns the port, NaN on a Unix socket. */
  async ready(): Promise<number> {
    const line = await this.line();
    const address = line.startsWith("{")
      ? JSON.parse(line).address
      : line.match(/^wait\.\.\. listening on (.+?)(?: \(TLS\))?$/)?.[1];
    assert(address, `not the line of a server that is ready: ${line}`);
    return Number(address.match(/:(\d+)$/)?.[1]);
  }

  /** It refuses to start, and says only why. */
  async refuses(why: string): Promise<void> {
    assertEquals(await Promise.race([this.code(), this.line()]), 1);
    assertEquals(this.stdout.all, []);
    const lines = this.stderr.all // Deno may say more of a host
      .map((line) => line.replace(/(invalid host '.*'): .*/, "$1"));
    assertEquals(lines, [`echo-server: ${why}`]);
  }

  /**
   * Sends a signal until the process ends, and returns after how many seconds:
   * for 0.1 s it is one request.
   */
  async killRepeatedly(signal: Deno.Signal): Promise<number> {
    const elapsed = stopwatch();
    const end = this.code().then(elapsed);
    while (!this.ended) {
      this.kill(signal);
      await delay(10);
    }
    const seconds = await end;
    assert(seconds >= 0.1, `it ended after ${seconds} s`);
    return seconds;
  }

  /** Waits for the `count`th line of the log about the event. */
  event(event: string, count = 1): Promise<string> {
    const about = new RegExp(`(Z |"event":")${event}\\b`);
    const look = () =>
      this.stderr.all.filter((line) => about.test(line))[count - 1];
    return this.expect(`"${event}"`, this.stderr, look);
  }

  /** How many descriptors the process holds. */
  async descriptors(): Promise<number> {
    const list = await output(["ls", `/proc/${this.pid}/fd`]);
    return list.trim().split("\n").length;
  }
}

/** Runs a command on a terminal of its own. Its output has `\r\n`. */
export const onTerminal = (command: string) =>
  new Child(["script", "-qec", command, "/dev/null"], {
    env: { SHELL: "/bin/sh" }, // script runs $SHELL
    stdin: "piped",
  });

/** A test that needs a terminal. */
export const withTerminal = (name: string, fn: () => Promise<void>) =>
  withCommand(name, fn, ["script"]);
