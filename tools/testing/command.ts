/**
 * The command in its own process, and on a terminal.
 *
 * @module
 */

import { assert } from "@std/assert";
import { Child, type ChildOptions, output } from "./child.ts";
import { needs } from "./needs.ts";
import { delay, stopwatch } from "./timing.ts";

/** How to run `main.ts` with certain permissions. */
export const runMain = (...permissions: string[]) => [
  Deno.execPath(),
  "run",
  ...permissions,
  "main.ts",
];

/** Runs `main.ts` after a script that makes Deno pretend to be another. */
export const runPretending = (script: string, ...permissions: string[]) =>
  runMain(`--preload=data:application/javascript,${script}`, ...permissions);

/** Runs a program with a redirection of the shell, for example `2>/dev/full`. */
export const redirected = (redirection: string, program: string[]) => [
  ...["sh", "-c", `exec "$@" ${redirection}`, "sh"],
  ...program,
];

/** How to run `main.ts` so that it is soon out of file descriptors. */
export const runMainLimited = () => [
  ...["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"],
  ...runMain("--allow-net"),
];

/** Kills a process, if it is still there; a session, if the id is negative. */
export function tryKill(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** The command in its own process. */
export class ServerProcess extends Child {
  /** Runs `program` with the arguments, which by default is `main.ts`. */
  constructor(
    args: string[],
    program: string[] = runMain("--allow-net"),
    options?: ChildOptions,
  ) {
    super([...program, ...args], options);
  }

  /** Waits until it listens; returns the port, NaN on a Unix socket. */
  async ready(): Promise<number> {
    await Promise.race([this.stdout.waitFor(1), this.code()]);
    const [line = this.fail("a line")] = this.stdout.all;
    const address = line.startsWith("{")
      ? JSON.parse(line).address
      : line.match(/^wait\.\.\. listening on (.+?)(?: \(TLS\))?$/)?.[1];
    assert(address, `not the line of a server that is ready: ${line}`);
    return Number(address.match(/:(\d+)$/)?.[1]);
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
  async event(event: string, count = 1): Promise<string> {
    const isAbout = (line: string) => line.includes(event);
    await Promise.race([this.stderr.find(isAbout, count), this.code()]);
    const line = this.stderr.all.filter(isAbout)[count - 1];
    return line ?? this.fail(`"${event}"`);
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
  needs(["net", "run", "read"], ["script"], name, fn);
