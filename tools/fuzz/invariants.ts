/**
 * What must hold after each run, whatever the script was.
 *
 * @module
 */

import type { Exchange } from "../../server.ts";
import type { Moment } from "../testing/fake_clock.ts";
import {
  type Limit,
  possibleResults,
  reachedBy,
  type Result,
  tick,
  unstick,
} from "./model.ts";
import {
  clientByte,
  greetingByte,
  isForeign,
  type Settings,
} from "./random_script.ts";
import type { Client, Connection, Run } from "./simulation.ts";

/** After sending `from` bytes, the server drains up to `bytes`, up to `ms`. */
const LINGER = { from: 512, ms: 1000, bytes: 1 << 20 };
/** Accepting stops while a client is greeted. */
const pace = (settings: Settings) => 50 + tick(settings);
/** Accepting stops after a failure: three times, no script has more. */
const BACK_OFF = 5 + 10 + 20;
/** A shutdown serves the queue while an accept is pending for so long in all. */
const QUEUE = 500;

/** Says what is wrong with a run, if anything is. */
export function* violations(run: Run): Generator<string> {
  const { settings } = run.script;
  if (run.finished === undefined) {
    yield "finished: it never settles";
    return;
  }
  for (const client of run.clients) {
    yield* wrongBytes(client, settings);
    const connection = run.connections.find(({ port }) => port === client.port);
    if (connection) yield* wrongExchange(client, connection, settings, run);
    else yield* wrongRefusal(client, settings, run);
  }
  for (const pair of run.shared) {
    const [one, other] = pair.map(({ port }) =>
      run.clients.findIndex((client) => client.port === port)
    );
    yield `buffer: clients ${one} and ${other} share one`;
  }
  yield* wrongEnd(settings, run, run.finished);
  yield* wrongListener(settings, run);
  yield* wrongNumber(settings, run);
  yield* wrongAccept(settings, run);
  yield* wrongErrors(run);
}

/** A client receives the greeting and its own bytes, from the first one on. */
function* wrongBytes({ index, received }: Client, { greeting }: Settings) {
  const expected = (n: number) =>
    n < greeting ? greetingByte(n) : clientByte(index, n - greeting);
  const n = received.findIndex((byte, n) => byte !== expected(n));
  if (n < 0) return;
  if (isForeign(received[n], index)) {
    yield `isolation: client ${index} received a byte of another`;
  } else {
    const not = `${received[n]}, not ${expected(n)}`;
    yield `bytes: client ${index} received as byte ${n} ${not}`;
  }
}

function* wrongExchange(
  client: Client,
  { accepted, closed, reports }: Connection,
  settings: Settings,
  run: Run,
) {
  const name = `client ${client.index}`;
  if (!closed) yield `closed: ${name} is still connected`;
  if (reports.length !== 1) {
    yield `reported: ${name} ${reports.length} times`;
    return;
  }
  const [report] = reports;
  const { at, ms } = report;
  if (ms !== at - accepted.at) yield `ms: ${name} is said to have taken ${ms}`;
  const limits = limitsOf(accepted, settings, run);
  const { events } = client;
  const results = possibleResults(settings, accepted, report, events, limits);
  const same = results.filter((result) => isSame(result, report));
  if (same.length > 0) {
    yield* wrongReading(client, report, same);
    if (closed) yield* wrongClose(client, closed, report, limits, settings);
  } else {
    const possible = results.map(describe).join(", or ") || "none";
    yield `outcome: ${name} is ${describe(report)}; possible: ${possible}`;
  }
}

type Ending = Pick<Result, "outcome" | "bytes" | "at" | "turn">;

function isSame(one: Ending, other: Ending): boolean {
  return one.outcome === other.outcome && one.bytes === other.bytes &&
    one.turn === other.turn;
}

function describe({ outcome, bytes, at }: Ending): string {
  return `${outcome} with ${bytes} bytes at ${round(at)}`;
}

/** A client reads what was written, and EOF as soon as it has its echo. */
function* wrongReading(
  { end, ended, index, received, script }: Client,
  { outcome, turn }: Moment & Exchange,
  results: Result[],
) {
  if (end instanceof Deno.errors.ConnectionReset) {
    yield `reset: client ${index} was reset`;
  }
  if (end !== "EOF") return;
  const { length } = received;
  const [{ written }] = results;
  if (!results.some((result) => result.written === length)) {
    yield `written: client ${index} received ${length} bytes, not ${written}`;
  }
  if (script.eager && outcome === "echoed" && ended?.turn !== turn) {
    yield `EOF: client ${index} reads it at ${round(ended!.at)}`;
  }
}

function limitsOf(
  accepted: Moment,
  settings: Settings,
  { stops: { shutdown, abort } }: Pick<Run, "stops">,
): Limit[] {
  const { timeout, grace } = settings;
  const limits: Limit[] = [];
  if (abort) limits.push({ ...abort, outcome: "shutdown", late: 0 });
  if (shutdown) {
    const at = shutdown.at + grace;
    limits.push({ ...shutdown, at, outcome: "shutdown", late: tick(settings) });
  }
  if (timeout > 0) {
    const at = accepted.at + timeout;
    limits.push({ ...accepted, at, outcome: "timeout", late: tick(settings) });
  }
  return limits;
}

/** The connection is closed with the report, or after it has been drained. */
function* wrongClose(
  client: Client,
  closed: Moment,
  report: Exchange & Moment,
  limits: Limit[],
  settings: Settings,
) {
  const { greeting, maxBytes } = settings;
  const { bytes, outcome, at, turn } = report;
  const lingers = bytes === maxBytes || greeting + bytes >= LINGER.from;
  if (outcome !== "echoed" || !lingers) {
    if (closed.turn === turn) return;
    yield `closed: client ${client.index} is closed at ${round(closed.at)}`;
    return;
  }
  const ends = [at + LINGER.ms, ...drainedAt(client)];
  for (const limit of limits) {
    if (limit.outcome === "shutdown") ends.push(limit.at);
  }
  const end = Math.max(at, Math.min(...ends));
  // Whoever got the echo after a limit was being drained already.
  const expired = limits.some(reachedBy(report));
  const [first, last] = expired
    ? [at, end + unstick(settings)]
    : [end, end + tick(settings)];
  if (closed.at >= first && closed.at <= last) return;
  const not = `${round(closed.at)}, not ${round(end)}`;
  yield `drained: client ${client.index} is closed at ${not}`;
}

/** When there may be nothing more to drain. */
function drainedAt({ events }: Client): number[] {
  let sent = 0;
  return events.filter(({ did, bytes }) => {
    if (did === "send") sent += bytes;
    return did === "send" ? sent > LINGER.bytes : did !== "read";
  }).map(({ at }) => at);
}

/** Whoever is connected before the server is stopped is accepted. */
function* wrongRefusal(client: Client, settings: Settings, run: Run) {
  const { connected, events, index } = client;
  const { stops: { shutdown, abort }, listenerClosed } = run;
  if (!connected || !listenerClosed) return;
  if (events.some(({ did }) => did === "reset")) return;
  const stopped = Math.min(shutdown?.turn ?? Infinity, abort?.turn ?? Infinity);
  if (connected.turn >= stopped) return;
  const over = limitsOf(connected, { ...settings, timeout: 0 }, run);
  if (over.some(({ at }) => at <= listenerClosed.at)) return;
  yield `queue: client ${index} was never accepted`;
}

function* wrongEnd(settings: Settings, run: Run, finished: Moment) {
  const closes = run.connections.map(({ closed }) => closed);
  const never = { at: Infinity, turn: Infinity };
  const last = [run.listenerClosed, ...closes].map((moment) => moment ?? never)
    .reduce((one, other) => one.turn > other.turn ? one : other);
  if (last.turn > finished.turn) {
    yield "finished: it settles before everything is closed";
  } else if (last.at < finished.at - settings.msPerTurn * tick(settings)) {
    yield "finished: it settles after everything is closed";
  }
  const limits = limitsOf(finished, { ...settings, timeout: 0 }, run);
  const end = Math.min(...limits.map(({ at, late }) => at + late)) +
    QUEUE * settings.msPerTurn + unstick(settings) + backOff(run);
  const at = `${round(finished.at)}, not by ${round(end)}`;
  if (finished.at > end) yield `finished: it settles at ${at}`;
  if (run.timers > 0) yield `timers: ${run.timers} are pending`;
}

/** The listener closes soon after the queue is served, whoever arrives. */
function* wrongListener(settings: Settings, run: Run) {
  const { mode, maxConnections } = settings;
  if (mode === "serial" || maxConnections < Infinity) return; // they wait
  const { connections, listenerClosed, stops: { shutdown, abort } } = run;
  const stop = Math.min(shutdown?.at ?? Infinity, abort?.at ?? Infinity);
  const pauses = pace(settings) * Math.ceil(connections.length / 16);
  const end = stop + QUEUE * settings.msPerTurn + pauses + backOff(run);
  if (listenerClosed && listenerClosed.at <= end + tick(settings)) return;
  yield `listener: it is closed at ${listenerClosed?.at}, not by ${round(end)}`;
}

function round(ms: number): number {
  return Math.round(ms * 100) / 100;
}

function backOff({ acceptErrors }: Run): number {
  return acceptErrors.thrown > 0 ? BACK_OFF : 0;
}

/** Never are more connections open than allowed. */
function* wrongNumber(
  { mode, maxConnections }: Settings,
  { connections }: Run,
) {
  const most = (end: (one: Connection) => Moment | undefined) => {
    const changes = connections.flatMap((one) => [
      { turn: one.accepted.turn, by: 1 },
      { turn: end(one)?.turn ?? Infinity, by: -1 },
    ]);
    changes.sort((a, b) => a.turn - b.turn || a.by - b.by);
    let open = 0;
    return Math.max(0, ...changes.map(({ by }) => open += by));
  };
  const open = most(({ closed }) => closed);
  if (open > maxConnections) {
    yield `maxConnections: ${open} connections are open`;
  }
  const exchanges = most(({ reports }) => reports[0]);
  if (mode === "serial" && exchanges > 1) {
    yield `serial: ${exchanges} at a time`;
  }
}

/** A client is accepted as soon as it can be: when it connects, or others end. */
function* wrongAccept(settings: Settings, run: Run) {
  const { clients, connections } = run;
  const changes = connections.flatMap(({ accepted, closed, reports, port }) =>
    [accepted, closed ?? accepted, ...reports]
      .map(({ at, turn }) => ({ at, turn, port }))
  ).sort((a, b) => a.turn - b.turn);
  for (const { accepted, port } of connections) {
    const { connected, index } = clients.find((one) => one.port === port)!;
    const last = changes.findLast((other) =>
      other.port !== port && other.turn <= accepted.turn
    );
    const change = Math.max(connected!.at, last?.at ?? 0);
    if (accepted.at <= change + pace(settings) + backOff(run)) continue;
    const from = `${round(change)} to ${round(accepted.at)}`;
    yield `accept: client ${index} waited from ${from}`;
  }
}

function* wrongErrors({ acceptErrors, callbackErrors, uncaught }: Run) {
  const { thrown, reported } = acceptErrors;
  if (thrown !== reported) {
    yield `accept errors: ${reported} of ${thrown} reported`;
  }
  const { printed } = callbackErrors;
  if (callbackErrors.thrown !== printed) {
    yield `callback errors: ${printed} of ${callbackErrors.thrown} printed`;
  }
  for (const error of uncaught) yield `uncaught: ${error}`;
}
