/**
 * The networks that the tests run over: in memory, TCP, TLS and Unix sockets,
 * all of one shape.
 *
 * @module
 */

import { output } from "./child.ts";
import { MemoryListener, type MemoryOptions } from "./memory_network.ts";
import {
  type Conn,
  connect,
  connectResettable,
  type ResettableClient,
} from "./clients.ts";
import { folder } from "./folder.ts";
import type { Need } from "./needs.ts";

/** A listener, and a way to connect to it. */
export interface Network {
  listener: {
    readonly addr: Deno.Addr;
    close(): void;
    [Symbol.asyncIterator](): AsyncIterator<Conn>;
  };
  connect(): Promise<Conn>;
  /** More bytes than the buffers of a connection hold. */
  lots: number;
  /** Removes what the closed listener leaves behind. */
  clean?(): Promise<void>;
}

/** A network whose clients can reset their connections. */
export interface ResettableNetwork extends Network {
  connectResettable(): Promise<ResettableClient>;
}

/** A kind of network, and what it needs. */
export interface Transport<N extends Network = Network> {
  name: string;
  permissions: Deno.PermissionName[];
  others: Need[];
  open: () => N | Promise<N>;
}

/** Names a kind of network, and what it needs. */
export function transport<N extends Network>(
  name: string,
  permissions: Deno.PermissionName[],
  others: Need[],
  open: () => N | Promise<N>,
): Transport<N> {
  return { name, permissions, others, open };
}

export const memory = transport("memory", [], [], () => memoryNetwork());
export const tcp = transport("TCP", ["net"], [], tcpNetwork);
export const tls = transport("TLS", ["net", "run"], ["openssl"], tlsNetwork);
export const unix = transport(
  "Unix",
  ["net", "read", "write"],
  [],
  unixNetwork,
);

/** All of them. */
export const TRANSPORTS: Transport[] = [memory, tcp, tls, unix];
export const RESETTABLE: Transport<ResettableNetwork>[] = [memory, tcp];

export function memoryNetwork(options: MemoryOptions = {}) {
  const listener = new MemoryListener({ bufferSize: 10_000, ...options });
  const connect = () => listener.connect();
  const connectResettable = async () => {
    const conn = await connect();
    return {
      write: (p: Uint8Array) => conn.write(p),
      received: () => conn.read(new Uint8Array(1000)),
      reset: () => Promise.resolve(conn.reset()),
    };
  };
  return { listener, connect, connectResettable, lots: 50_000 };
}

/** Linux holds up to 4 MiB that are unsent, and far less that nobody reads. */
const LOTS = 8 << 20;
const LOCALHOST = { hostname: "127.0.0.1", port: 0, tcpBacklog: 4096 };

export function tcpNetwork() {
  const listener = Deno.listen(LOCALHOST);
  const { port } = listener.addr;
  return {
    listener,
    connect: () => connect(port),
    connectResettable: () => connectResettable(port),
    lots: LOTS,
  };
}

let certificate: Promise<string> | undefined; // making one takes a while

async function tlsNetwork() {
  const pem = await (certificate ??= createCertificate());
  const listener = Deno.listenTls({ ...LOCALHOST, cert: pem, key: pem });
  const connectTls = async () => {
    const conn = await connect(listener.addr.port);
    conn.setNoDelay(); // what a client sends must not wait for an ACK
    return Deno.startTls(conn, { hostname: "localhost", caCerts: [pem] });
  };
  return { listener, connect: connectTls, lots: LOTS };
}

async function unixNetwork() {
  const dir = await folder();
  const path = `${dir.path}/echo.sock`;
  return {
    listener: Deno.listen({ transport: "unix", path }),
    connect: () => Deno.connect({ transport: "unix", path }),
    clean: async () => await dir[Symbol.asyncDispose](),
    lots: 1 << 20,
  };
}

/** Makes a key and a certificate for `localhost`, both in one text. */
export function createCertificate(): Promise<string> {
  return output([
    ..."openssl req -x509 -nodes -newkey ec".split(" "),
    ..."-pkeyopt ec_paramgen_curve:P-256 -subj /CN=localhost".split(" "),
    ..."-addext subjectAltName=DNS:localhost".split(" "),
    ..."-addext basicConstraints=CA:FALSE -keyout - -out -".split(" "),
  ]);
}
