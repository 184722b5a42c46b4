/**
 * The command in its own process.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { textOf } from "./bytes.ts";
import { delay, Inbox, stopwatch } from "./timing.ts";

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

/** The command in its own process, which is killed when it is disposed of. */
export class ServerProcess implements AsyncDisposable {
  readonly stdout: Inbox<string> = new Inbox();
  readonly stderr: Inbox<string> = new Inbox();
  ended = false;
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<unknown>;
  readonly #reading = new AbortController();

  /** Runs `program` with the arguments, which by default is `main.ts`. */
  constructor(args: string[], program: string[] = runMain("--allow-net")) {
    const [executable, ...first] = program;
    this.#child = new Deno.Command(executable, {
      args: [...first, ...args],
      cwd: new URL("../..", import.meta.url),
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output = Promise.all([
      this.#collect(this.#child.stdout, this.stdout),
      this.#collect(this.#child.stderr, this.stderr),
    ]).catch((error) => assertEquals(error.name, "AbortError"));
    this.#child.status.then(() => this.ended = true);
  }

  async #collect(from: ReadableStream<Uint8Array>, to: Inbox<string>) {
    const { signal } = this.#reading;
    const texts = from.pipeThrough(new TextDecoderStream(), { signal });
    let rest = "";
    for await (const text of texts) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      lines.forEach(to.push);
    }
    if (rest !== "") to.push(rest);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Breaks the pipes of its output, as a log reader that ends does. */
  stopReading(): void {
    this.#reading.abort();
  }

  /** Sends a signal, unless it has ended. */
  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended.
    }
  }

  /** Waits for the end; returns the exit code. */
  async code(): Promise<number> {
    await this.#output;
    return (await this.#child.status).code;
  }

  /** Waits until it listens; returns the port, NaN on a Unix socket. */
  async ready(): Promise<number> {
    await Promise.race([this.stdout.waitFor(1), this.code()]);
    const [line = `it ended: ${this.#report()}`] = this.stdout.all;
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
    const found = this.stderr.all.filter(isAbout);
    assert(
      found.length >= count,
      `ended without "${event}": ${this.#report()}`,
    );
    return found[count - 1];
  }

  /** Everything it has said. */
  #report(): string {
    return [...this.stdout.all, ...this.stderr.all].join("\n");
  }

  /** How many descriptors the process holds. */
  async descriptors(): Promise<number> {
    const { stdout } = await new Deno.Command("ls", {
      args: [`/proc/${this.pid}/fd`],
    }).output();
    return textOf(stdout).trim().split("\n").length;
  }

  /** Its resident memory in kB. */
  async rss(): Promise<number> {
    const { stdout } = await new Deno.Command("ps", {
      args: ["-o", "rss=", "-p", `${this.pid}`],
    }).output();
    return Number(textOf(stdout));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGKILL");
    await this.code();
  }
}
