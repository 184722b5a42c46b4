/**
 * Runs a server under strace, and reads the system calls that strace saw.
 *
 * @module
 */

import { Child, output, tryKill } from "../testing/child.ts";

/** A system call that has returned. */
export interface Call {
  /** When it took effect, in milliseconds since 1970. */
  time: number;
  name: string;
  args: string;
  /** The number that it returned, with the name of the error if it failed. */
  result: string;
}

/** The time on strace's clock, in milliseconds since 1970. */
export const now = () => performance.timeOrigin + performance.now();

/** The calls to look at. Not every processor has those with a question mark. */
const TRACED = [
  ..."execve ?epoll_create1 socket setsockopt bind listen".split(" "),
  ..."accept4 epoll_ctl ?epoll_wait epoll_pwait getsockname".split(" "),
  ..."getpeername sendto recvfrom read write shutdown close".split(" "),
];

/** Shows whether each thread sleeps, and how often it has run. */
const THREADS = 'grep -hE "^State|ctxt" /proc/$0/task/*/status';
/** The listener is the only socket shown; `Recv-Q` is the length of its queue. */
const LISTENER = 'ss -Hnlt "sport = :$1"';
/** The server may have ended: then there is nothing to show. */
const INSPECT = `${THREADS}; echo --; ${LISTENER}; echo --; ${THREADS}; true`;

/** A server that runs under strace. */
export class TracedServer extends Child {
  /** Port that the server listens on, once it is ready. */
  port = 0;
  readonly #log: string;

  /**
   * Starts a server, and kills it if the signal is aborted; `log` is a file that
   * strace may write to.
   */
  constructor(program: string[], log: string, signal?: AbortSignal) {
    // All threads; the time of day, and how long each call took.
    const options = "-f --seccomp-bpf -ttt -T -e signal=none".split(" ");
    options.push("-e", `trace=${TRACED}`, "-o", log);
    // Both end with this process: strace, with -I2, by the signal.
    const strace = ["setpriv", "--pdeathsig=TERM", "strace", "-I2", ...options];
    super([...strace, "--", ...program], { signal });
    this.#log = log;
  }

  /** Waits until the server listens and prints `wait...`. */
  async ready(): Promise<void> {
    const waits = (line: string) => line.startsWith("wait...");
    await Promise.race([
      this.stdout.find(waits),
      this.stderr.find(waits), // where Go's println prints
      this.code(),
    ]);
    if (this.ended) throw new Error(this.#whyItEnded());
    const calls = this.#calls();
    const listen = calls.findIndex(({ name }) => name === "listen");
    const name = calls.slice(listen).find(({ name }) => name === "getsockname");
    if (listen < 0 || !name) throw new Error("it does not listen on a port");
    this.port = portIn(name)!;
  }

  #whyItEnded(): string {
    const inUse = this.#calls().find(({ name, result }) =>
      name === "bind" && result === "-1 EADDRINUSE"
    );
    if (inUse) return `port ${portIn(inUse)} is in use`;
    return `it ended before it was ready: ${this.stderr.all[0]}`;
  }

  /**
   * Asks the kernel how many connections wait in the listener's queue, and
   * whether the whole server sleeps meanwhile.
   */
  async inspect(): Promise<{ queue: number; asleep: boolean }> {
    // Deno may not read /proc without all permissions.
    const inspect = ["sh", "-c", INSPECT, `${this.#server}`, `${this.port}`];
    const [before, listener, after] = (await output(inspect)).split("--\n");
    return {
      queue: Number(listener.match(/^LISTEN +(\d+)/)?.[1] ?? 0),
      // No thread has run in between.
      asleep: before === after && !/^State:\s+[^S]/m.test(after),
    };
  }

  /** Lets the server finish what it does, ends it, and returns its calls. */
  async stop(): Promise<Call[]> {
    while (!(await this.inspect()).asleep);
    const end = Date.now(); // unlike now(), it follows a clock that is set
    this.kill("SIGTERM");
    await this.code();
    return this.#calls().filter(({ time }) => time < end);
  }

  #calls(): Call[] {
    return parseLog(Deno.readTextFileSync(this.#log));
  }

  /** The server's process, a child of strace's; NaN if there is none yet. */
  get #server(): number {
    return parseInt(Deno.readTextFileSync(this.#log));
  }

  /** Sends a signal to the server, with which strace ends. */
  override kill(signal: Deno.Signal): void {
    const pid = this.#server;
    if (Number.isNaN(pid)) super.kill("SIGKILL");
    else if (!this.ended) tryKill(pid, signal);
  }
}

/** The port of the address that a call names. */
export function portIn({ args }: Call): number | undefined {
  const port = args.match(/sin6?_port=htons\((\d+)\)/)?.[1];
  return port === undefined ? undefined : Number(port);
}

/** Reads a log of `strace -f -ttt -T`, and sorts it by time. */
function parseLog(log: string): Call[] {
  const calls: Call[] = [];
  const unfinished = new Map<string, { began: number; text: string }>();
  for (const line of log.split("\n")) {
    const [, thread, seconds, text] = line.match(/^(\d+) +([\d.]+) (.*)/) ?? [];
    if (text === undefined) continue;
    const time = 1000 * Number(seconds);
    const [, start] = text.match(/^(.*) <unfinished \.\.\.>$/) ?? [];
    const [, end] = text.match(/^<\.\.\. \w+ resumed>(.*)/) ?? [];
    if (start !== undefined) {
      unfinished.set(thread, { began: time, text: start });
    } else if (end !== undefined) {
      const { began, text } = unfinished.get(thread)!;
      calls.push(...parseCall(text + end, began, time));
    } else {
      calls.push(...parseCall(text, time));
    }
  }
  return calls.sort((a, b) => a.time - b.time);
}

/** Reads one call, if the text is one that has returned. */
function parseCall(text: string, began: number, returned?: number): Call[] {
  const [, name, args, result, seconds] =
    text.match(/^(\w+)\((.*)\) += (\S+(?: E[A-Z]+)?).* <([\d.]+)>$/) ?? [];
  if (seconds === undefined) return [];
  returned ??= began + 1000 * Number(seconds);
  // A call that gets or creates something takes effect when it returns.
  const gets = /wait|^accept|^read|^recv|^socket|create/.test(name);
  return [{ time: gets ? returned : began, name, args, result }];
}
