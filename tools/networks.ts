/**
 * Two networks of one shape, in memory and of real sockets, for tests that
 * compare them.
 *
 * @module
 */

import net from "node:net";
import { MemoryListener, type MemoryOptions } from "./memory_network.ts";

/** What the tests need of a connection. */
export type Conn = Pick<
  Deno.Conn,
  "localAddr" | "remoteAddr" | "read" | "write" | "closeWrite" | "close"
>;

/** A client that can reset its connection. */
export interface ResettableClient {
  write(p: Uint8Array): Promise<unknown>;
  reset(): Promise<void>;
}

/** A listener, and a way to connect to it. */
export interface Network {
  listener: { close(): void; [Symbol.asyncIterator](): AsyncIterator<Conn> };
  connect(): Promise<Conn>;
  connectResettable(): Promise<ResettableClient>;
  /** More bytes than the buffers of a connection hold. */
  lots: number;
}

export async function accept({ listener }: Network): Promise<Conn> {
  const { value } = await listener[Symbol.asyncIterator]().next();
  return value;
}

export function memoryNetwork(options: MemoryOptions = {}) {
  const listener = new MemoryListener({ bufferSize: 1000, ...options });
  const connect = () => listener.connect();
  const connectResettable = async () => {
    const conn = await connect();
    return {
      write: (p: Uint8Array) => conn.write(p),
      reset: () => Promise.resolve(conn.reset()),
    };
  };
  return { listener, connect, connectResettable, lots: 5000 };
}

export function tcpNetwork(): Network {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { addr } = listener;
  return {
    listener,
    connect: () => Deno.connect({ hostname: addr.hostname, port: addr.port }),
    connectResettable: async () => {
      const socket = net.connect(addr.port, addr.hostname);
      await new Promise((resolve) => socket.once("connect", resolve));
      return {
        write: (p) => new Promise((done) => socket.write(p, done)),
        reset: () =>
          new Promise((closed) =>
            socket.resetAndDestroy().once("close", closed)
          ),
      };
    },
    lots: 64 << 20,
  };
}
