/**
 * Starts the service under strace, makes one exchange with it, and prints the
 * system calls of both in order, each with what it is for. Linux only.
 *
 * ```sh
 * deno task trace
 * ```
 *
 * @module
 */

import { runMain, ServerProcess } from "./server_process.ts";
import {
  bytesOf,
  connect,
  exists,
  GREETING,
  readAll,
  readExactly,
} from "./testing.ts";

/** A system call as strace showed it, and what it is for. */
export interface Call {
  /** The call with its arguments and its result, shortened. */
  text: string;
  /** What it is for. */
  why: string;
}

/** What the calls are for, by how they begin. The first that fits counts. */
const WHY: [RegExp, string][] = [
  [/^socket/, "a socket"],
  [/^setsockopt/, "so that a restart need not wait for TIME_WAIT"],
  [/^bind/, "its address and port"],
  [/^listen/, "from now on clients can connect: the kernel queues them"],
  [/^accept4.*EAGAIN/, "nobody else waits in the queue"],
  [/^accept4/, "takes a connection from the queue"],
  [/^epoll_ctl.*ADD/, "tell me whenever it can be read or written"],
  [/^epoll_ctl.*DEL/, "no more"],
  [/^getsockname/, "its own address, for addr and localAddr"],
  [/^getpeername/, "the client's address, for remoteAddr"],
  [/^epoll_wait.*events=EPOLLOUT/, "waits: it can be written"],
  [/^epoll_wait.*events=EPOLLIN/, "waits: there is something to read"],
  [/^sendto.*Hello/, "1. the greeting"],
  [/^recvfrom/, "2. one read"],
  [/^sendto/, "3. the echo"],
  [/^shutdown/, "4. the close: nothing more will be sent,"],
  [/^close/, "and the descriptor is free again"],
];

const TRACED = "socket,setsockopt,bind,listen,accept4,epoll_ctl,epoll_wait," +
  "getsockname,getpeername,sendto,recvfrom,shutdown,close";

/**
 * Starts the service under strace and makes one exchange with it.
 *
 * @returns The calls until it listens, and those of the exchange.
 */
export async function trace(): Promise<{ start: Call[]; exchange: Call[] }> {
  const file = await Deno.makeTempFile();
  try {
    // With -D the service, and not strace, is the child that gets our signal.
    await using command = new ServerProcess(
      ["--port", "0"],
      ["strace", "-D", "-o", file, "-e", `trace=${TRACED}`].concat(
        runMain("--allow-net"),
      ),
    );
    const port = await command.ready();
    using conn = await connect(port);
    await readExactly(conn, GREETING.length);
    await conn.write(bytesOf("hoge\r\n"));
    await readAll(conn);
    command.kill("SIGTERM");
    await command.code();
    let text: string;
    do text = await Deno.readTextFile(file); while (!/^\+\+\+/m.test(text));
    return select(text.split("\n"));
  } finally {
    await Deno.remove(file);
  }
}

/** Picks the calls about the listening socket and the one connection. */
function select(lines: string[]): { start: Call[]; exchange: Call[] } {
  const from = lines.findIndex((line) => line.startsWith("socket("));
  const listener = lines[from].match(/= (\d+)$/)?.[1];
  const accept = lines.findIndex((line) =>
    line.startsWith("accept4(") && !line.includes("EAGAIN")
  );
  const conn = lines[accept].match(/= (\d+)$/)?.[1];
  const about = (descriptor?: string) =>
    new RegExp(`^\\w+\\((\\d+, EPOLL_CTL_\\w+, )?${descriptor}[,)]`);

  const start = lines.slice(from + 1, accept)
    .filter((line) => about(listener).test(line));
  const close = lines.findIndex((line, i) =>
    i > accept && line.startsWith(`close(${conn})`)
  );
  const exchange = lines.slice(accept, close + 1).filter((line, i, all) =>
    about(conn).test(line) || line.startsWith("accept4(") ||
    // A wait that ended for another reason says nothing about the exchange.
    (line.startsWith("epoll_wait(") && !/^epoll_wait/.test(all[i + 1]))
  );
  return {
    start: [lines[from], ...start].map(explain),
    exchange: exchange.map(explain),
  };
}

function explain(line: string): Call {
  const text = line
    .replace(/, data=\{[^}]*\}/g, "")
    .replace(
      /\{sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([\d.]+)"\)\}/,
      "$2:$1",
    )
    .replace(/\[128( => 16)?\]/, "[…]")
    .replace(/, 1024, \d+\)/, ", …)")
    .replace(/ \(Resource temporarily unavailable\)/, "")
    .replace(/ +=/, " =");
  return { text, why: WHY.find(([begin]) => begin.test(line))?.[1] ?? "" };
}

function print(title: string, calls: Call[]): void {
  console.log(title);
  for (const { text, why } of calls) console.log(`${text}\n    ${why}`);
}

if (import.meta.main) {
  if (Deno.build.os !== "linux") {
    console.error("trace: strace runs on Linux, this is " + Deno.build.os);
    Deno.exit(1);
  }
  if (!exists("strace")) {
    console.error("trace: strace is missing: apt-get install strace");
    Deno.exit(1);
  }
  const { start, exchange } = await trace();
  print("Start:", start);
  print("\nOne exchange:", exchange);
}
