/**
 * Child processes: any program, and the command.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { bytesOf, textOf } from "./bytes.ts";
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

export interface ChildOptions {
  env?: Record<string, string>;
  stdin?: "piped" | "null";
  /** Collect text as it comes, not lines. */
  raw?: boolean;
  /** In its own session: what it starts gets its signals too. */
  detached?: boolean;
  /** Kills it. */
  signal?: AbortSignal;
}

/** A child process that is killed, if it has not ended, when it is disposed of. */
export class Child implements AsyncDisposable {
  readonly stdout: Inbox<string> = new Inbox();
  readonly stderr: Inbox<string> = new Inbox();
  ended = false;
  readonly #child: Deno.ChildProcess;
  readonly #options: ChildOptions;
  readonly #output: Promise<unknown>;
  readonly #reading = new AbortController();
  readonly #stdin?: WritableStreamDefaultWriter<Uint8Array>;

  /** Starts a program in the root of the project. */
  constructor([program, ...args]: string[], options: ChildOptions = {}) {
    options.signal?.throwIfAborted();
    this.#options = options;
    this.#child = new Deno.Command(program, {
      args,
      cwd: new URL("../..", import.meta.url),
      detached: options.detached,
      env: { NO_COLOR: "1", ...options.env },
      stdin: options.stdin ?? "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#child.ref(); // undoes the other half of `detached`
    if (options.stdin === "piped") this.#stdin = this.#child.stdin.getWriter();
    this.#output = Promise.all([
      this.#collect(this.#child.stdout, this.stdout),
      this.#collect(this.#child.stderr, this.stderr),
    ]).catch((error) => assertEquals(error.name, "AbortError"));
    this.#child.status.then(() => this.ended = true);
    options.signal?.addEventListener("abort", this.#abort);
  }

  async #collect(from: ReadableStream<Uint8Array>, to: Inbox<string>) {
    const { signal } = this.#reading;
    let rest = "";
    for await (
      const text of from.pipeThrough(new TextDecoderStream(), { signal })
    ) {
      const lines = this.#options.raw ? [text, ""] : (rest + text).split("\n");
      rest = lines.pop()!;
      lines.forEach(to.push);
    }
    if (rest !== "") to.push(rest);
  }

  readonly #abort = () => this.kill("SIGKILL");

  get pid(): number {
    return this.#child.pid;
  }

  /** Breaks the pipes of its output, as a log reader that ends does. */
  stopReading(): void {
    this.#reading.abort();
  }

  /** Writes to its stdin, which must be piped. */
  async write(text: string): Promise<void> {
    await this.#stdin!.write(bytesOf(text));
  }

  /** Closes its stdin, if it is piped. */
  async closeStdin(): Promise<void> {
    await this.#stdin?.close().catch(() => {}); // it may be closed already
  }

  /** Sends a signal, unless it has ended. */
  kill(signal: Deno.Signal): void {
    try {
      if (this.#options.detached) Deno.kill(-this.pid, signal);
      else this.#child.kill(signal);
    } catch {
      // It has ended.
    }
  }

  /** Waits for the end; returns the exit code. */
  async code(): Promise<number> {
    await this.#output;
    return (await this.#child.status).code;
  }

  /** Waits for the `count`th line with that text, unless it ends before. */
  async line(
    from: "stdout" | "stderr",
    text: string,
    count = 1,
  ): Promise<string> {
    const matches = (line: string) => line.includes(text);
    await Promise.race([this[from].find(matches, count), this.code()]);
    const found = this[from].all.filter(matches);
    assert(
      found.length >= count,
      `it ended without "${text}": ${this.report()}`,
    );
    return found[count - 1];
  }

  /** Everything it has said. */
  report(): string {
    return [...this.stdout.all, ...this.stderr.all].join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#options.signal?.removeEventListener("abort", this.#abort);
    this.kill("SIGKILL");
    await this.closeStdin();
    await this.code();
  }
}

/** The command in its own process. */
export class ServerProcess extends Child {
  /** Runs `program` with the arguments, which by default is `main.ts`. */
  constructor(args: string[], program: string[] = runMain("--allow-net")) {
    super([...program, ...args]);
  }

  /** Waits until it listens; returns the port, NaN on a Unix socket. */
  async ready(): Promise<number> {
    await Promise.race([this.stdout.waitFor(1), this.code()]);
    const [line = `it ended: ${this.report()}`] = this.stdout.all;
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
  event(event: string, count = 1): Promise<string> {
    return this.line("stderr", event, count);
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
}
