/**
 * What `serve` promises of one exchange, as a model: given what the client did
 * and when, how may the exchange end?
 *
 * @module
 */

import type { Outcome } from "../../server.ts";
import type { Moment } from "../testing/fake_clock.ts";
import type { Settings } from "./random_script.ts";

/** What a client did. Bytes count as sent when they arrive. */
export interface ClientEvent extends Moment {
  did: "send" | "read" | "half-close" | "close" | "reset";
  bytes: number;
}

/** The end of an exchange that is not done: a deadline, or an abort. */
export interface Limit extends Moment {
  outcome: Outcome;
  /** How many milliseconds later is still in time. */
  late: number;
}

/** One way for an exchange to end. */
export interface Result extends Moment {
  outcome: Outcome;
  /** How many bytes of the echo were written. */
  bytes: number;
  /** How many bytes were written, including the greeting. */
  written: number;
}

/** Deadlines expire together within 20 ms, or 64 turns, and a little more. */
export const tick = ({ msPerTurn }: Settings) => 21 + 70 * msPerTurn;
/** How long the server reads on while a write is stuck. */
export const unstick = (settings: Settings) => 50 + tick(settings);

/** An exchange and how far it has come. */
class Progress {
  sent = 0;
  received = 0;
  written = 0;
  /** How many bytes the one read returned. */
  echo = 0;
  eof = false;
  closed = false;
  reset = false;
  /** Whether the server has had to wait for room to write. */
  blocked = false;

  /** The client does something. */
  happen({ did, bytes }: ClientEvent): void {
    if (did === "send") this.sent += bytes;
    if (did === "read") this.received += bytes;
    if (did === "half-close" || did === "close") this.eof = true;
    if (did === "close" || did === "reset") this.closed = true;
    if (did === "close") this.reset = this.written > this.received; // unread
    if (did === "reset") this.reset = true;
  }

  /** The server does all that it can. Returns the outcome if it is done. */
  proceed(settings: Settings): Outcome | undefined {
    const { greeting, maxBytes, maxRead } = settings;
    if (this.reset && !this.eof) return "reset";
    if (!this.write(greeting, settings)) return this.#stuck();
    if (this.echo === 0 && this.sent === 0) return this.eof ? "eof" : undefined;
    this.echo ||= Math.min(this.sent, maxBytes, maxRead);
    if (!this.write(greeting + this.echo, settings)) return this.#stuck();
    return "echoed";
  }

  /** Writes until there are `total` bytes; returns whether there are. */
  write(total: number, { bufferSize, maxWrite }: Settings): boolean {
    if (!this.closed) {
      const most = Math.min(total, this.received + bufferSize);
      this.written = Math.max(this.written, most);
    } else if (!this.reset && this.written < total) {
      // A closed client answers with a reset, but only to the next write.
      const n = Math.min(total - this.written, bufferSize, maxWrite);
      this.written += n;
      this.reset = true;
    }
    this.blocked ||= this.written < total;
    return this.written >= total;
  }

  #stuck(): Outcome | undefined {
    return this.reset ? "reset" : undefined;
  }
}

/**
 * How an exchange may end that is accepted and reported at these moments, if
 * the client does `events`.
 *
 * The server does at once what it can, but two races are allowed. Of what the
 * client does within one turn, the server may see the beginning before the
 * rest. And when a limit is reached, the server may go on until it reports.
 */
export function possibleResults(
  settings: Settings,
  accepted: Moment,
  reported: Moment,
  events: ClientEvent[],
  limits: Limit[],
): Result[] {
  const possible = new Possibilities(settings, accepted, limits);
  for (const event of events) {
    if (event.turn > reported.turn || possible.exchanges.length === 0) break;
    if (event.turn >= accepted.turn) possible.proceedUntil(event);
    for (const exchange of possible.exchanges) exchange.happen(event);
  }
  possible.proceedUntil(reported);
  possible.expire();
  return possible.results;
}

/** All the ways that an exchange may have gone so far. */
class Possibilities {
  readonly results: Result[] = [];
  exchanges = [new Progress()];

  constructor(
    readonly settings: Settings,
    public now: Moment,
    readonly limits: Limit[],
  ) {
    const stops = limits.filter(({ outcome }) => outcome === "shutdown");
    if (!stops.some((limit) => isOver(limit, now))) return;
    this.#end(new Progress(), "shutdown"); // without a greeting
    this.exchanges = [];
  }

  /** The server does what it can before something else happens. */
  proceedUntil(next: Moment): void {
    const before = this.exchanges;
    const expired = this.limits.some(reachedBy(this.now));
    const mayWait = expired || next.turn === this.now.turn;
    this.exchanges = mayWait ? [...before] : [];
    for (const exchange of before.map(copy)) {
      exchange.blocked &&= expired;
      const outcome = exchange.proceed(this.settings);
      if (outcome) this.#end(exchange, outcome);
      else this.exchanges.push(exchange);
    }
    if (expired) { // then it may finish the greeting, and not read
      for (const exchange of before.map(copy)) {
        exchange.write(this.settings.greeting, this.settings);
        this.exchanges.push(exchange);
      }
    }
    this.exchanges = distinct(this.exchanges);
    this.now = next;
  }

  /** The server closes what has reached a limit, if it is still in time. */
  expire(): void {
    for (const exchange of this.exchanges) {
      const extra = exchange.blocked ? unstick(this.settings) : 0;
      if (this.limits.some((limit) => isOver(limit, this.now, extra))) continue;
      for (const { outcome } of this.limits.filter(reachedBy(this.now))) {
        this.#end(exchange, outcome);
      }
    }
  }

  #end({ written }: Progress, outcome: Outcome): void {
    const bytes = Math.max(0, written - this.settings.greeting);
    this.results.push({ outcome, ...this.now, bytes, written });
  }
}

/** Whether a limit is reached at a moment. */
export function reachedBy({ at, turn }: Moment): (limit: Limit) => boolean {
  return (limit) => limit.at <= at && limit.turn <= turn;
}

/** Whether nothing may go on any more. */
function isOver(limit: Limit, { at, turn }: Moment, extra = 0): boolean {
  return limit.at + limit.late + extra < at ||
    limit.late + extra === 0 && limit.at === at && limit.turn < turn;
}

function copy(exchange: Progress): Progress {
  return Object.assign(new Progress(), exchange);
}

function distinct(exchanges: Progress[]): Progress[] {
  const byKey = new Map(
    exchanges.map((one) => [Object.values(one).join(), one]),
  );
  return [...byKey.values()];
}
