/**
 * Compares the network in memory with real sockets: each scenario runs over
 * both, and both must do the same.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { bytesOf, textOf } from "./bytes.ts";
import {
  type Conn,
  readAll,
  type ResettableClient,
  tryClose,
} from "./clients.ts";
import { needs } from "./needs.ts";
import { turn } from "./timing.ts";
import {
  memoryNetwork,
  type ResettableNetwork,
  tcpNetwork,
} from "./transports.ts";

type Scenarios<Args extends unknown[]> = Record<
  string,
  (...args: Args) => Promise<void>
>;

/** A network that can also accept. */
type Network = ResettableNetwork & { accept(): Promise<Conn> };

/** What an operation returns, or the name of the error that it throws. */
async function resultOf<T>(operation: Promise<T>): Promise<T | string> {
  try {
    return await operation;
  } catch (error) {
    return (error as Error).name;
  }
}

async function readText(conn: Conn, size = 100): Promise<string | null> {
  const p = new Uint8Array(size);
  const n = await conn.read(p);
  return n === null ? null : textOf(p.subarray(0, n));
}

const write = (conn: Conn, text: string) => conn.write(bytesOf(text));

/** Writes until it fails, which may take a while on a real network. */
async function writeError(conn: Conn): Promise<string> {
  while (true) {
    const result = await resultOf(write(conn, "x"));
    if (typeof result === "string") return result;
    await turn();
  }
}

/** Writes until a write must wait; returns that one and the bytes before it. */
async function fill(conn: Conn, { lots }: Network) {
  const p = new Uint8Array(lots);
  for (let written = 0;;) {
    let n: number | undefined;
    const pending = conn.write(p);
    pending.then((result) => n = result, () => {});
    // The first write never has to wait for the peer, but perhaps for its turn.
    for (let i = 0; (i < 10 || written === 0) && n === undefined; i++) {
      await turn();
    }
    if (n === undefined) return { pending, written };
    written += n;
    assert(written < lots, "the buffers have no end");
  }
}

/** For both ends of a connection. */
const CONNECTION: Scenarios<[Conn, Conn, Network]> = {
  async "a read fills its buffer, or returns what there is"(a, b) {
    await write(a, "hogehoge!");
    assertEquals(await readText(b, 4), "hoge");
    assertEquals(await readText(b, 4), "hoge");
    assertEquals(await readText(b, 4), "!");
  },

  async "a pending read gets what comes"(a, b) {
    const pending = readText(a);
    await write(b, "hoge");
    assertEquals(await pending, "hoge");
  },

  async "a writer waits until the peer reads"(a, b, network) {
    const { pending, written } = await fill(a, network);
    const reading = readAll(b);
    const total = written + await pending;
    await a.closeWrite();
    assertEquals((await reading).length, total);
  },

  async "a half-close waits for the write before it"(a, b, network) {
    const { pending, written } = await fill(a, network);
    const closing = a.closeWrite();
    const { length } = await readAll(b);
    assertEquals(length, written + await pending);
    await closing;
  },

  async "EOF is read again and again"(a, b) {
    await a.closeWrite();
    for (let i = 0; i < 3; i++) assertEquals(await readText(b), null);
  },

  async "each direction is half-closed by itself"(a, b) {
    const pending = readText(b);
    await a.closeWrite();
    await a.closeWrite();
    assertEquals(await pending, null);
    assertEquals(await resultOf(write(a, "x")), "BrokenPipe");
    await write(b, "still");
    assertEquals(await readText(a), "still");
    await b.closeWrite();
    assertEquals(await readText(a), null);
    assertEquals(await resultOf(write(b, "x")), "BrokenPipe");
  },

  async "close interrupts a pending read"(a) {
    const pending = resultOf(readText(a));
    await turn();
    a.close();
    assertEquals(await pending, "Interrupted");
  },

  async "close interrupts a pending write"(a, _, network) {
    const { pending } = await fill(a, network);
    const interrupted = resultOf(pending);
    a.close();
    assertEquals(await interrupted, "Interrupted");
  },

  async "nothing can be done after close"(a) {
    a.close();
    assertEquals(await resultOf(readText(a)), "BadResource");
    assertEquals(await resultOf(write(a, "x")), "BadResource");
    assertEquals(await resultOf(a.closeWrite()), "BadResource");
    assertThrows(() => a.close(), Deno.errors.BadResource);
  },

  async "the first write to a closed peer is lost, then they fail"(a, b) {
    a.close();
    assertEquals(await write(b, "lost"), 4);
    assertEquals(await writeError(b), "BrokenPipe");
    assertEquals(await readText(b), null);
  },

  async "close with unread data: the answer, EOF, then a reset"(a, b) {
    await write(a, "hoge");
    assertEquals(await readText(b, 1), "h");
    await write(b, "answer");
    b.close();
    assertEquals(await readText(a), "answer");
    assertEquals(await readText(a), null);
    assertEquals(await writeError(a), "BrokenPipe");
    assertEquals(await readText(a), null);
  },

  async "close with unread data: EOF for a pending read"(a, b) {
    await write(a, "hoge");
    assertEquals(await readText(b, 1), "h");
    const pending = readText(a);
    b.close();
    assertEquals(await pending, null);
  },

  async "close with unread data breaks a pending write"(a, b, network) {
    const { pending } = await fill(a, network);
    b.close();
    assertEquals(await resultOf(pending), "BrokenPipe");
    assertEquals(await readText(a), null);
  },
};

/** For the server's end, and a client that can reset the connection. */
const RESET: Scenarios<[Conn, ResettableClient, Network]> = {
  async "a pending read sees the reset, later ones EOF"(server, client) {
    const pending = resultOf(readText(server));
    client.reset();
    assertEquals(await pending, "ConnectionReset");
    assertEquals(await readText(server), null);
    assertEquals(await writeError(server), "BrokenPipe");
  },

  async "a later read sees the reset, after the data"(server, client) {
    await client.write(bytesOf("hoge"));
    client.reset();
    assertEquals(await readText(server), "hoge");
    assertEquals(await resultOf(readText(server)), "ConnectionReset");
    assertEquals(await readText(server), null);
  },

  async "a later write sees the reset, then a broken pipe"(server, client) {
    await client.write(bytesOf("hoge"));
    client.reset();
    assertEquals(await writeError(server), "ConnectionReset");
    assertEquals(await writeError(server), "BrokenPipe");
    await server.closeWrite();
    assertEquals(await readText(server), "hoge");
    assertEquals(await readText(server), null);
  },

  async "a reset breaks a pending read and write"(server, client, network) {
    const { pending } = await fill(server, network);
    const results = Promise.all(
      [readText(server), pending].map(resultOf<unknown>),
    );
    client.reset();
    assertEquals(await results, ["ConnectionReset", "BrokenPipe"]);
  },

  async "a reset is seen after a half-close"(server, client) {
    await server.closeWrite();
    const pending = resultOf(readText(server));
    client.reset();
    assertEquals(await pending, "ConnectionReset");
  },
};

/** For a listener and its clients. */
const LISTENER: Scenarios<[Network]> = {
  async "connections are accepted in order"(network) {
    const clients = [];
    for (let i = 0; i < 5; i++) clients.push(await network.connect());
    for (const client of clients) {
      const server = await network.accept();
      assertEquals(server.remoteAddr, client.localAddr);
    }
  },

  async "a pending accept gets the next connection"(network) {
    const pending = network.accept();
    const client = await network.connect();
    const server = await pending;
    assertEquals(server.remoteAddr, client.localAddr);
  },

  async "a client may send and close before it is accepted"(network) {
    const client = await network.connect();
    await write(client, "hoge");
    client.close();
    const server = await network.accept();
    assertEquals(await readText(server), "hoge");
    assertEquals(await readText(server), null);
  },

  async "a reset in the queue fails that accept only"(network) {
    const gone = await network.connectResettable();
    const client = await network.connect();
    await gone.reset();
    assertEquals(await resultOf(network.accept()), "NotConnected");
    const server = await network.accept();
    assertEquals(server.remoteAddr, client.localAddr);
  },

  async "closing the listener ends a pending accept"(network) {
    const iterator = network.listener[Symbol.asyncIterator]();
    const pending = iterator.next();
    network.listener.close();
    assertEquals((await pending).done, true);
    assertEquals((await iterator.next()).done, true);
    assertThrows(() => network.listener.close(), Deno.errors.BadResource);
  },

  async "a closed listener refuses connections"(network) {
    network.listener.close();
    assertEquals(await resultOf(network.connect()), "ConnectionRefused");
  },

  async "closing the listener resets those in the queue"(network) {
    const reader = await network.connect();
    const writer = await network.connect();
    const pending = resultOf(readText(reader));
    network.listener.close();
    assertEquals(await pending, "ConnectionReset");
    assertEquals(await readText(reader), null);
    assertEquals(await writeError(writer), "ConnectionReset");
    assertEquals(await writeError(writer), "BrokenPipe");
  },

  async "closing the listener leaves accepted connections alone"(network) {
    const client = await network.connect();
    const server = await network.accept();
    network.listener.close();
    await write(client, "hoge");
    assertEquals(await readText(server), "hoge");
  },
};

for (const [name, scenario] of Object.entries(LISTENER)) test(name, scenario);

for (const [name, scenario] of Object.entries(CONNECTION)) {
  test(name, async (network) => {
    const client = await network.connect();
    await scenario(client, await network.accept(), network);
  });
}

for (const [name, scenario] of Object.entries(RESET)) {
  test(name, async (network) => {
    const client = await network.connectResettable();
    await scenario(await network.accept(), client, network);
  });
}

function test(name: string, run: (network: Network) => Promise<void>): void {
  const runOn = async (network: ResettableNetwork) => {
    const opened: { close(): void }[] = [network.listener];
    const keep = (conn: Conn) => {
      opened.push(conn);
      return conn;
    };
    const accept = async () =>
      keep((await network.listener[Symbol.asyncIterator]().next()).value);
    const connect = async () => keep(await network.connect());
    try {
      await run({ ...network, accept, connect });
    } finally {
      opened.forEach(tryClose);
    }
  };
  Deno.test(`in memory: ${name}`, () => runOn(memoryNetwork()));
  if (Deno.build.os !== "linux") return; // other kernels reset differently
  needs(["net"], [], `over TCP: ${name}`, () => runOn(tcpNetwork()));
}

// ---------------------------------------------- what only memory can do

Deno.test("in memory: reads and writes are cut", async () => {
  const { listener } = memoryNetwork({ maxRead: 2, maxWrite: 3 });
  const client = await listener.connect();
  const server = (await listener.next()).value;
  assertEquals(await write(client, "hoge"), 3);
  assertEquals(await readText(server), "ho");
  assertEquals(await readText(server), "g");
});

Deno.test("in memory: accepts fail on demand", async () => {
  const { listener } = memoryNetwork();
  const pending = resultOf(listener.next());
  listener.fail(new Deno.errors.NotFound());
  assertEquals(await pending, "NotFound");
  await listener.connect();
  listener.fail(new Deno.errors.Busy());
  assertEquals(await resultOf(listener.next()), "Busy");
  assertEquals((await listener.next()).done, undefined);
});
