/**
 * Child processes, each in its own session: what it starts is killed with
 * it, and counts towards the processor time and the memory that it uses.
 *
 * @module
 */

/** Programs run in the root of the project. */
const ROOT = new URL("../..", import.meta.url);
/** The unit of processor time in `/proc`. */
const TICKS_PER_SECOND = 100;

export interface SessionOptions {
  /** Kills it. */
  signal: AbortSignal;
  stdin?: "piped" | "null";
  stdout?: "piped" | "null";
  /** Where it puts its temporary files. */
  tempDir?: string;
}

/** A program that is killed, with everything it started, when disposed of. */
export class Session implements AsyncDisposable {
  readonly child: Deno.ChildProcess;
  readonly #signal: AbortSignal;
  /** Everything that it has printed on stderr, once it has ended. */
  readonly stderr: Promise<string>;
  ended = false;

  constructor([program, ...args]: string[], options: SessionOptions) {
    this.#signal = options.signal;
    this.#signal.throwIfAborted();
    const { tempDir } = options;
    this.child = new Deno.Command(program, {
      args,
      cwd: ROOT,
      detached: true, // makes the session
      env: tempDir === undefined ? {} : { TMPDIR: tempDir },
      stdin: options.stdin ?? "null",
      stdout: options.stdout ?? "piped",
      stderr: "piped",
    }).spawn();
    this.child.ref(); // undoes the other half of `detached`
    this.stderr = new Response(this.child.stderr).text();
    this.child.status.then(() => this.ended = true);
    this.#signal.addEventListener("abort", this.#kill);
  }

  #kill = (): void => {
    try {
      Deno.kill(-this.child.pid, "SIGKILL");
    } catch {
      // It has ended already.
    }
  };

  async [Symbol.asyncDispose](): Promise<void> {
    this.#signal.removeEventListener("abort", this.#kill);
    this.#kill();
    await this.child.status;
  }
}

/** Runs a program to its end, with `input` on stdin. */
export async function output(
  command: string[],
  options: SessionOptions,
  input = "",
): Promise<{ success: boolean; stdout: string }> {
  await using session = new Session(command, { ...options, stdin: "piped" });
  const writer = session.child.stdin.getWriter();
  if (input !== "") await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const stdout = await new Response(session.child.stdout).text();
  const { success } = await session.child.status;
  options.signal.throwIfAborted();
  return { success, stdout };
}

/** Seconds of processor time that a session has used. */
export async function cpuTime(
  { child }: Session,
  signal: AbortSignal,
): Promise<{ user: number; system: number }> {
  // Not Deno.readTextFile: below /proc it needs --allow-all.
  const command = ["sh", "-c", "cat /proc/[0-9]*/stat 2> /dev/null"];
  const { stdout } = await output(command, { signal });
  const total = { user: 0, system: 0 };
  for (const line of stdout.split("\n")) {
    // The second field is the program's name, which may hold anything.
    const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
    if (Number(fields[3]) !== child.pid) continue;
    total.user += Number(fields[11]) / TICKS_PER_SECOND;
    total.system += Number(fields[12]) / TICKS_PER_SECOND;
  }
  return total;
}

/** The resident memory of a session, in kB. */
export async function residentMemory(
  { child }: Session,
  signal: AbortSignal,
): Promise<number> {
  const command = ["ps", "-o", "rss=", "-s", `${child.pid}`];
  const { stdout } = await output(command, { signal });
  return stdout.trim().split("\n")
    .reduce((total, size) => total + Number(size), 0);
}
