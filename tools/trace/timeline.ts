/**
 * A timeline of two clients and a service, from the service's system calls.
 *
 * @module
 */

import { type Call, portIn } from "./strace.ts";

/** What happened at one moment. */
export interface Row {
  /** When, in milliseconds since 1970. */
  time: number;
  /** What client 1 did. */
  client1?: string;
  /** What client 2 did. */
  client2?: string;
  /** What the service did. */
  service?: string;
  /** What it was for. */
  why?: string;
}

/** What a descriptor of the service is for. */
export type Owner = "listener" | "client 1" | "client 2";

/** Formats the rows as a table, sorted by time. */
export function format(rows: Row[]): string {
  const sorted = rows.toSorted((a, b) => a.time - b.time);
  const start = sorted[0]?.time ?? 0;
  const line = (
    ms: string,
    { client1 = "", client2 = "", service = "", why = "" }: Partial<Row>,
  ) =>
    [ms.padStart(6), client1.padEnd(19), client2.padEnd(19)]
      .concat(service.padEnd(43), why).join("  ").trimEnd();
  const titles = { client1: "client 1", client2: "client 2" };
  return [
    line("ms", { ...titles, service: "service", why: "what for" }),
    ...sorted.map((row) => line((row.time - start).toFixed(1), row)),
  ].join("\n");
}

/**
 * Picks the calls that are about the listener and its clients.
 *
 * @param calls What the service did, sorted by time.
 * @param clients The clients by their ports.
 */
export function annotate(calls: Call[], clients: Map<number, Owner>): Row[] {
  const descriptors = new Descriptors(calls, clients);
  return calls.flatMap((call) =>
    descriptors.explain(call).map((line) => ({ time: call.time, ...line }))
  );
}

/** A call, and what it is for. */
interface Line {
  service: string;
  why: string;
}

/** Keeps track, call by call, of what each descriptor is for. */
class Descriptors {
  readonly #clients: Map<number, Owner>;
  readonly #listen: Call;
  readonly #socket: Call;
  readonly #owners = new Map<string, Owner>();
  /** The descriptor that an event of epoll is about. */
  readonly #watched = new Map<string, string>();
  readonly #greeted = new Set<Owner>();

  constructor(calls: Call[], clients: Map<number, Owner>) {
    this.#clients = clients;
    const listen = calls.findIndex(({ name }) => name === "listen");
    this.#listen = calls[listen];
    this.#socket = calls.slice(0, listen).findLast(({ name, result }) =>
      name === "socket" && result === descriptorOf(this.#listen)
    )!;
  }

  /** What a call is for; nothing if it is not about one of our sockets. */
  explain(call: Call): Line[] {
    if (/^epoll_p?wait/.test(call.name)) return this.#explainWait(call);
    const why = this.#purpose(call);
    return why === undefined ? [] : [{ service: shorten(call), why }];
  }

  #purpose(call: Call): string | undefined {
    const { name, args, result, time } = call;
    if (name === "execve") return "the program starts";
    if (name === "epoll_create1" && time < this.#listen.time) {
      return "epoll, to wait in";
    }
    if (call === this.#socket) this.#owners.set(result, "listener");
    const fd = call === this.#socket ? result : descriptorOf(call);
    if (/^epoll_ctl.*_ADD/.test(name + args)) {
      this.#watched.set(dataOf(args), fd);
    }
    if (name === "accept4" && /^\d/.test(result)) return this.#accepted(call);

    const owner = this.#owners.get(fd);
    if (name === "close") this.#owners.delete(fd);
    if (owner === undefined) return undefined;
    if (owner === "listener") return find(LISTENER, call);
    return `${owner}: ${this.#explainClient(owner, call)}`;
  }

  #accepted(call: Call): string | undefined {
    const client = this.#clients.get(portIn(call)!);
    if (client === undefined) return undefined;
    this.#owners.set(call.result, client);
    return `${client}: accepted`;
  }

  #explainWait(call: Call): Line[] {
    const events = eventsIn(call.args);
    const lines = events.flatMap(({ names, data }) => {
      const owner = this.#owners.get(this.#watched.get(data) ?? "");
      const why = owner && explainEvent(owner, names);
      return why === undefined ? [] : [{ service: `  ${names}`, why }];
    });
    if (lines.length === 0) return [];
    const { length } = events;
    const shown = length === 1 ? events[0].names : "...";
    const service =
      `${call.name}(${call.args.split(",")[0]}, [${shown}], ...)` +
      ` = ${call.result}`;
    if (length === 1) return [{ service, why: lines[0].why }];
    return [{ service, why: `${length} events:` }, ...lines];
  }

  #explainClient(owner: Owner, call: Call): string {
    if (!/^(sendto|write)$/.test(call.name)) return find(CLIENT, call);
    if (this.#greeted.has(owner)) return "the echo";
    this.#greeted.add(owner);
    return "the greeting";
  }
}

/** The descriptor that a call is about. */
function descriptorOf({ name, args }: Call): string {
  return args.split(", ")[name === "epoll_ctl" ? 2 : 0];
}

/** What a program hands to epoll with a descriptor, and gets back with events. */
function dataOf(args: string): string {
  return args.match(/data=(\{[^}]*\}|\w+)/)?.[1] ?? "";
}

function eventsIn(args: string): { names: string; data: string }[] {
  return [...args.matchAll(/\{events=([A-Z|]+), (data=(?:\{[^}]*\}|\w+))/g)]
    .map(([, names, data]) => ({ names, data: dataOf(data) }));
}

/** What the calls are for. The first that fits counts. */
type Purposes = [RegExp, string][];

const LISTENER: Purposes = [
  [/^socket.*MPTCP/, "a socket for multipath TCP"],
  [/^socket/, "a TCP socket"],
  [/SO_REUSEADDR/, "allow a quick restart"],
  [/^bind/, "its address and port"],
  [/^listen/, "clients can connect"],
  [/EPOLL_CTL_ADD/, "watch for connections"],
  [/^getsockname/, "which port it got"],
  [/^accept4/, "the queue is empty"],
];

const CLIENT: Purposes = [
  [/EPOLL_CTL_ADD/, "watch it"],
  [/EPOLL_CTL_DEL/, "stop watching"],
  [/^getsockname/, "local address"],
  [/^getpeername/, "remote address"],
  [/TCP_NODELAY/, "no delay"],
  [/SO_KEEPALIVE/, "keep-alive"],
  [/TCP_KEEPIDLE/, "idle time"],
  [/TCP_KEEPINTVL/, "interval"],
  [/TCP_KEEPCNT/, "number of probes"],
  [/^(read|recvfrom).*EAGAIN/, "nothing yet"],
  [/^(read|recvfrom).* = 0$/, "EOF"],
  [/^(read|recvfrom)/, "what it sent"],
  [/^shutdown/, "send EOF"],
  [/^close/, "closed"],
];

function explainEvent(owner: Owner, names: string): string {
  if (owner === "listener") return "a connection waits";
  const can = [
    ...(/IN|HUP/.test(names) ? ["read"] : []),
    ...(/OUT/.test(names) ? ["write"] : []),
  ];
  return `${owner}: can ${can.join(", ")}`;
}

function find(purposes: Purposes, { name, args, result }: Call): string {
  const text = `${name}(${args}) = ${result}`;
  return purposes.find(([begin]) => begin.test(text))?.[1] ?? "";
}

/** How many arguments to show of calls that have more. */
const SHOWN: Record<string, number> = {
  execve: 1,
  socket: 2,
  setsockopt: 3,
  epoll_ctl: 3,
  accept4: 2,
  getsockname: 2,
  getpeername: 2,
  sendto: 2,
  recvfrom: 3,
};

/** A call as strace shows it, but short enough for its column. */
function shorten({ name, args, result }: Call): string {
  const all = args
    .replace(
      /\{sa_family=\w+, sin6?_port=htons\((\d+)\), .*"(.*)".*?\}/,
      "$2:$1",
    )
    .replace(/".*\/(.*)", \[/, '".../$1", [') // the path of execve
    .replace(/(SOCK_STREAM)[\w|]+/, "$1|...")
    .replace(/SOL_\w+/, "...")
    .replace(/0x[\da-f]+/, "0x...")
    .replace(/(\\0)+/, "\\0")
    .split(", ");
  const shown = all.slice(0, SHOWN[name]);
  if (shown.length < all.length) shown.push("...");
  return `${name}(${shown.join(", ")}) = ${result}`;
}
