/**
 * Programs in processes of their own.
 *
 * @module
 */

import { bytesOf } from "./bytes.ts";
import { ROOT } from "./folder.ts";
import { Inbox } from "./timing.ts";

/** How to run a program. */
export interface ChildOptions {
  /** Variables of the environment, added to those of this process. */
  env?: Record<string, string>;
  /** Whether it can be written to; otherwise its stdin is empty. */
  stdin?: "piped";
  /** Kills it and all that it has started, for which it gets a session. */
  signal?: AbortSignal;
}

/** What a program prints: its lines, and all of it as one text. */
export class Output extends Inbox<string> {
  /** All of it, also a line that has not ended yet. */
  text = "";
  /** The line that has not ended yet. */
  rest = "";

  add(text: string): void {
    this.text += text;
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop()!;
    lines.forEach(this.push);
    this.wake();
  }

  async collect(
    stream: ReadableStream<Uint8Array>,
    signal: AbortSignal,
  ): Promise<void> {
    const texts = stream.pipeThrough(new TextDecoderStream(), { signal });
    for await (const text of texts) this.add(text);
    if (this.rest !== "") this.push(this.rest);
  }
}

/** A program in its own process, which is killed when it is disposed of. */
export class Child implements AsyncDisposable {
  readonly stdout = new Output();
  readonly stderr = new Output();
  ended = false;
  readonly #process: Deno.ChildProcess;
  readonly #stdin?: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: Promise<unknown>;
  readonly #reading = new AbortController();
  readonly #signal?: AbortSignal;

  /** Runs a program in the root of the project. */
  constructor([program, ...args]: string[], options: ChildOptions = {}) {
    const { env, stdin, signal } = options;
    signal?.throwIfAborted();
    this.#process = new Deno.Command(program, {
      args,
      cwd: ROOT,
      env: { NO_COLOR: "1", ...env },
      detached: signal !== undefined, // makes a session
      stdin: stdin ?? "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#process.ref(); // `detached` has also unref'd it
    if (stdin) this.#stdin = this.#process.stdin.getWriter();
    this.#output = Promise.all([
      this.stdout.collect(this.#process.stdout, this.#reading.signal),
      this.stderr.collect(this.#process.stderr, this.#reading.signal),
    ]).catch((error) => {
      if (!this.#reading.signal.aborted) throw error;
    });
    this.#process.status.then(() => this.ended = true);
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort);
  }

  readonly #onAbort = () => this.kill("SIGKILL");

  get pid(): number {
    return this.#process.pid;
  }

  /** Sends a signal, to the whole session if it has one, unless it has ended. */
  kill(signal: Deno.Signal): void {
    if (this.#signal) tryKill(-this.pid, signal);
    else if (!this.ended) tryKill(this.pid, signal);
  }

  /** Writes to its stdin, which must be piped. */
  async write(text: string): Promise<void> {
    await this.#stdin!.write(bytesOf(text));
  }

  /** Closes its stdin. */
  async closeStdin(): Promise<void> {
    await this.#stdin?.close().catch(() => {}); // it may have ended
  }

  /** Breaks the pipes of its output, as a log reader that ends does. */
  stopReading(): void {
    this.#reading.abort();
  }

  /** Waits for the end; returns the exit code. */
  async code(): Promise<number> {
    await this.#output;
    return (await this.#process.status).code;
  }

  /** Waits until it has printed something; throws if it ends without. */
  async expect<T>(
    what: string,
    from: Output,
    look: () => T | undefined | null,
  ): Promise<T> {
    await Promise.race([from.until(look), this.code()]);
    const found = look();
    if (found != null) return found;
    const printed = this.stdout.text + this.stderr.text;
    throw new Error(`it ended without ${what}: ${printed.trimEnd()}`);
  }

  /** Waits until stdout shows something. */
  shows(pattern: RegExp): Promise<RegExpMatchArray> {
    const look = () => this.stdout.text.match(pattern);
    return this.expect(`${pattern}`, this.stdout, look);
  }

  /** Waits for the `count`th line on stdout. */
  line(count = 1): Promise<string> {
    const look = () => this.stdout.all[count - 1];
    return this.expect(`${count} lines`, this.stdout, look);
  }

  /** The resident memory of the process, or of its session, in kB. */
  async residentMemory(): Promise<number> {
    const signal = this.#signal;
    const which = signal ? "-s" : "-p";
    const command = ["ps", "-o", "rss=", which, `${this.pid}`];
    const sizes = await output(command, { signal }).catch((error) => {
      if (!this.ended) throw error;
      return "";
    });
    return sizes.split("\n").reduce((sum, size) => sum + Number(size), 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.kill("SIGKILL");
    await this.#process.status;
    this.stopReading(); // another process may hold the other ends
    await this.#output;
    await this.closeStdin();
  }
}

/** Kills a process, or a session if the id is negative, unless it has ended. */
export function tryKill(pid: number, signal: Deno.Signal = "SIGKILL"): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Runs a program after a line of the shell, for example `ulimit -n 64`. */
export const after = (line: string, program: string[]) => [
  ...["sh", "-c", `${line}; exec "$@"`, "sh"],
  ...program,
];

/**
 * Runs a program to its end, with a text on its stdin; returns what it printed.
 * Throws if it fails or is aborted.
 */
export async function output(
  program: string[],
  options: ChildOptions = {},
  input = "",
): Promise<string> {
  await using child = new Child(program, { ...options, stdin: "piped" });
  await child.write(input).catch(() => {}); // its exit code says why
  await child.closeStdin();
  const code = await child.code();
  options.signal?.throwIfAborted();
  if (code === 0) return child.stdout.text;
  const printed = `${child.stderr.text}${child.stdout.text}`.trimEnd();
  throw new Error(printed || `${program[0]} ended with code ${code}`);
}
