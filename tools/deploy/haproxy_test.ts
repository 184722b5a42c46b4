import { assert, assertEquals } from "@std/assert";
import { Child } from "../testing/child.ts";
import { folder } from "../testing/folder.ts";
import { ServerProcess } from "../testing/command.ts";
import { GREETING } from "../testing/bytes.ts";
import { exchangeOn } from "../testing/clients.ts";
import { withFiles } from "../testing/needs.ts";
import { turn } from "../testing/timing.ts";

const CLIENTS = 8;

/** HAProxy in front of two instances, with Unix sockets for all the rest. */
class Proxy extends Child {
  readonly #dir: string;

  constructor(dir: string, one: number, two: number) {
    super(["haproxy", "-db", "-f", "tools/deploy/haproxy.cfg"], {
      env: {
        ADMIN: `${dir}/admin.sock`,
        FRONT: `unix@${dir}/front.sock`,
        ONE: `127.0.0.1:${one}`,
        TWO: `127.0.0.1:${two}`,
      },
    });
    this.#dir = dir;
  }

  /** Says something to the runtime API; returns the answer. */
  say(command: string): Promise<string> {
    return exchangeOn(`${this.#dir}/admin.sock`, `${command}\n`);
  }

  /** A column of `show stat` for one of the two. */
  async stat(server: "one" | "two", column: string): Promise<string> {
    const [head, ...rows] = (await this.say("show stat")).slice(2).split("\n")
      .map((line) => line.split(","));
    const row = rows.find(([proxy, name]) =>
      proxy === "echo" && name === server
    );
    return row?.[head.indexOf(column)] ?? "";
  }

  /** Waits until both are up. */
  async up(): Promise<void> {
    for (const server of ["one", "two"] as const) {
      while (
        await this.stat(server, "status").catch(() => "") !== "UP" ||
        await this.stat(server, "check_status") !== "L7OK"
      ) {
        assert(!this.ended, this.stderr.text);
        await turn();
      }
    }
  }

  /** One exchange through the proxy; says whether nothing was lost. */
  async exchange(message: string): Promise<boolean> {
    const answer = exchangeOn(`${this.#dir}/front.sock`, message);
    return await answer.catch(() => "") === GREETING + message;
  }
}

/** Exchanges without a pause, until it is told to stop. */
class Load implements AsyncDisposable {
  exchanges = 0;
  losses = 0;
  #stop = false;
  readonly #clients: Promise<void>[];

  constructor(proxy: Proxy) {
    this.#clients = Array.from({ length: CLIENTS }, async () => {
      while (!this.#stop) {
        if (!await proxy.exchange(`${this.exchanges++}`)) this.losses++;
      }
    });
  }

  /** Waits for `count` more exchanges. */
  async more(count: number): Promise<void> {
    const until = this.exchanges + count;
    while (this.exchanges < until) await turn();
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await Promise.all(this.#clients);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

withFiles(
  "HAProxy: balanced, drained and restarted without a loss, redispatched",
  async () => {
    await using one = new ServerProcess(["-p0"]);
    await using two = new ServerProcess(["-p0"]);
    const port = await one.ready();
    await using dir = await folder();
    await using proxy = new Proxy(dir.path, port, await two.ready());
    await proxy.up();
    await using load = new Load(proxy);
    await load.more(500);
    assert(Number(await proxy.stat("one", "stot")) > 100, "one gets its share");
    assert(Number(await proxy.stat("two", "stot")) > 100, "two gets its share");

    // Drain one, stop it, start it again, put it back: nothing is lost.
    await proxy.say("set server echo/one state drain");
    while (await proxy.stat("one", "scur") !== "0") await turn();
    one.kill("SIGTERM");
    assertEquals(await one.code(), 0);
    await load.more(500);
    await using again = new ServerProcess(["-p", `${port}`]);
    await again.ready();
    await proxy.say("set server echo/one state ready");
    await proxy.up();
    const before = Number(await proxy.stat("one", "stot"));
    await load.more(500);
    assert(
      Number(await proxy.stat("one", "stot")) > before + 100,
      "it is back",
    );
    assertEquals(load.losses, 0);

    // Kill it outright: what was in flight on it may be lost, and no more.
    again.kill("SIGKILL");
    await again.code();
    await load.more(1000);
    await load.stop();
    // For each client the exchange in flight, and one more if it came back
    // while the kernel was still closing the sockets of the dead process.
    assert(load.losses <= 2 * CLIENTS, `${load.losses} lost`);
    for (let i = 0; i < 20; i++) assert(await proxy.exchange("hoge"));
  },
  ["haproxy"],
);
