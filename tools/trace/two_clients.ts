/**
 * Two clients of a server that runs under strace: a slow one, and one that
 * connects while the server still waits for the first to speak.
 *
 * @module
 */

import { folder } from "../testing/folder.ts";
import { bytesOf, textOf } from "../testing/bytes.ts";
import { now, TracedServer } from "./strace.ts";
import { annotate, type Row } from "./timeline.ts";

/** Runs a server and its two clients, and returns what happened. */
export async function traceTwoClients(
  program: string[],
  signal?: AbortSignal,
): Promise<Row[]> {
  await using dir = await folder();
  const log = `${dir.path}/log`;
  await Deno.writeTextFile(log, ""); // it may be read before strace writes
  await using server = new TracedServer(program, log, signal);
  const rows: Row[] = [];
  await server.ready();
  using slow = await Client.connect(
    server.port,
    (text) => rows.push({ time: now(), client1: text }),
  );
  await slow.greeted;
  using quick = await Client.connect(
    server.port,
    (text) => rows.push({ time: now(), client2: text }),
  );
  await quick.send("fuga\r\n");
  const row = await queuedOrServed(server, quick);
  if (row) rows.push(row);
  else await quick.done;
  await slow.send("hoge\r\n");
  await slow.done;
  await quick.done;

  const calls = await server.stop();
  const owners = [[slow.port, "client 1"], [quick.port, "client 2"]] as const;
  return rows.concat(annotate(calls, new Map(owners)));
}

/** Waits until the client is answered, or is queued while the server sleeps. */
async function queuedOrServed(
  server: TracedServer,
  client: Client,
): Promise<Row | undefined> {
  while (!client.answered) {
    const { queue, asleep } = await server.inspect();
    if (queue > 0 && asleep) {
      return {
        time: now(),
        client2: "waits in the queue",
        service: "(sleeps)",
        why: `${queue} in the queue`,
      };
    }
  }
}

/** A client that notes its steps: before it acts, and after it receives. */
class Client implements Disposable {
  /** Whether the server has sent anything, or closed. */
  answered = false;
  readonly #answer = Promise.withResolvers<void>();
  /** Settles when it is answered. */
  readonly greeted = this.#answer.promise;
  /** Settles when the server has closed. */
  readonly done: Promise<void>;

  static async connect(
    port: number,
    note: (text: string) => void,
  ): Promise<Client> {
    note("connects");
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    note("is connected");
    return new Client(conn, note);
  }

  private constructor(
    readonly conn: Deno.TcpConn,
    readonly note: (text: string) => void,
  ) {
    this.done = this.#listen();
    this.done.catch(() => {}); // it is awaited later
  }

  get port(): number {
    return this.conn.localAddr.port;
  }

  async send(text: string): Promise<void> {
    this.note(`sends ${quote(text)}`);
    await this.conn.write(bytesOf(text));
  }

  async #listen(): Promise<void> {
    const buffer = new Uint8Array(4096);
    try {
      for (let n; (n = await this.conn.read(buffer)) !== null;) {
        const text = textOf(buffer.subarray(0, n));
        // The greeting may come with the echo, which may be padded with \0.
        for (const line of text.split(/(?<=\n)(?!\0)/)) {
          this.note(`gets ${quote(line)}`);
        }
        this.#isAnswered();
      }
      this.note("gets EOF");
    } finally {
      this.#isAnswered();
    }
  }

  #isAnswered(): void {
    this.answered = true;
    this.#answer.resolve();
  }

  [Symbol.dispose](): void {
    this.conn.close();
  }
}

/** A line in quotes, without its line end; only its length if it is long. */
function quote(text: string): string {
  const line = text.trimEnd();
  return line.length > 12 ? `${text.length} bytes` : JSON.stringify(line);
}
