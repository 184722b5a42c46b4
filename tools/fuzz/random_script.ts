/**
 * What happens in one run of the fuzz: the server's settings, what each client
 * does and when the server is stopped, all drawn from one seed.
 *
 * @module
 */

import type { Mode } from "../../server.ts";
import { Random } from "../testing/random.ts";

export interface Script {
  seed: number;
  settings: Settings;
  clients: ClientScript[];
  controls: Control[];
  /** What the callbacks do after they have noted what they are told. */
  callbacks: "return" | "throw" | "reject";
  /** Whether `console.error` throws. */
  brokenConsole: boolean;
}

/** How many clients have bytes of their own. */
const OWNERS = 47;

export interface Settings {
  mode: Mode;
  /** The length of the greeting. */
  greeting: number;
  maxBytes: number;
  maxConnections: number;
  timeout: number;
  grace: number;
  /** Of the network. */
  bufferSize: number;
  maxRead: number;
  maxWrite: number;
  /** The most microtasks after which the server gets a result. */
  latency: number;
  /** How long a turn of the event loop takes, in milliseconds. */
  msPerTurn: number;
}

export interface ClientScript {
  /** When it connects, in milliseconds. */
  at: number;
  /** Reads whatever comes, all the time. */
  eager: boolean;
  steps: Step[];
}

export interface Step {
  /** How many milliseconds after the step before. */
  after: number;
  do: "send" | "read" | "half-close" | "close" | "reset";
  /** How many bytes to send, or to have read in all since the beginning. */
  bytes: number;
}

export interface Control {
  at: number;
  do: "shutdown" | "abort" | "fail an accept";
}

/** The n-th byte that a client sends: nobody else sends it, nor its neighbour. */
export function clientByte(client: number, n: number): number {
  return 16 + client % OWNERS * 5 + n % 5;
}

/** Whether another client sends such a byte. The greeting has other bytes. */
export function isForeign(byte: number, client: number): boolean {
  return byte >= 16 && Math.floor((byte - 16) / 5) !== client % OWNERS;
}

export function greetingByte(n: number): number {
  return 1 + n % 7;
}

/** Draws a script. The same seed always gives the same. */
export function scriptOf(seed: number): Script {
  const random = new Random(seed);
  const settings = settingsOf(random);
  const controls = controlsOf(random, settings);
  // Only a crowd shows how the server paces itself.
  const count = random.chance(0.03) ? random.int(17, 40) : random.int(2, 8);
  const clients = Array.from(
    { length: count },
    () => clientOf(random, settings, controls),
  );
  const newcomers = random.chance(0.01)
    ? newcomersOf(random, controls[0].at)
    : [];
  // Without it, all newcomers would arrive between two turns.
  if (newcomers.length > 0) settings.msPerTurn = 1;
  return {
    seed,
    settings,
    clients: [...clients, ...newcomers],
    controls,
    callbacks: random.pick("return", "return", "throw", "reject"),
    brokenConsole: random.chance(0.2),
  };
}

function settingsOf(random: Random): Settings {
  return {
    mode: random.pick("concurrent", "serial", "events"),
    greeting: random.pick(0, 1, 14, 14, 14, 40, 300),
    maxBytes: random.pick(1, 2, 8, 100, 1024, 5000),
    maxConnections: random.pick(1, 2, 3, Infinity, Infinity, Infinity),
    timeout: random.pick(0, 30, 100, 100, 1000),
    grace: random.pick(0, 1, 50, 500, 3000),
    bufferSize: random.pick(1, 7, 7, 64, 64, 4096, 65536, 65536, 65536),
    maxRead: random.pick(1, 5, Infinity, Infinity, Infinity),
    maxWrite: random.pick(1, 5, Infinity, Infinity, Infinity),
    latency: random.pick(0, 0, 2, 10),
    msPerTurn: 0,
  };
}

function clientOf(
  random: Random,
  settings: Settings,
  controls: Control[],
): ClientScript {
  const { timeout, grace } = settings;
  const at = momentOf(random);
  const ends = [at + timeout];
  for (const control of controls) ends.push(control.at, control.at + grace);
  const steps: Step[] = [];
  let now = at;
  for (let left = random.int(0, 5); left > 0; left--) {
    const after = pauseOf(random, random.pick(...ends) - now);
    now += after;
    const step = { after, ...actionOf(random, settings) };
    steps.push(step);
    if (step.do === "close" || step.do === "reset") break;
  }
  return { at, eager: random.chance(0.5), steps };
}

/** Clients that arrive one after the other for a second after a stop. */
function newcomersOf(random: Random, stop: number): ClientScript[] {
  const every = random.pick(2, 3, 5, 20, 100);
  const steps: Step[] = [{ after: random.pick(0, 1), do: "send", bytes: 4 }];
  return Array.from(
    { length: 1000 / every },
    (_, i) => ({ at: stop + 1 + i * every, eager: true, steps }),
  );
}

/** Any time, or about when a deadline passes or the server is stopped. */
function pauseOf(random: Random, untilEnd: number): number {
  if (random.chance(0.2)) {
    return Math.max(0, untilEnd + random.pick(-1, 0, 1, random.real(0, 60)));
  }
  return random.pick(0, 0, random.real(0, 10), random.real(0, 150));
}

/** Now and then exactly when something else happens. */
function momentOf(random: Random): number {
  return random.pick(0, 10, random.real(0, 20), random.real(0, 300));
}

function actionOf(random: Random, settings: Settings) {
  const action = random.pick<Step["do"]>(
    ...["send", "send", "send", "send", "read", "read", "read"] as const,
    ...["half-close", "close", "reset"] as const,
  );
  if (action === "send") return { do: action, bytes: sizeOf(random, settings) };
  const some = random.int(1, 20);
  return { do: action, bytes: random.pick(settings.greeting, some, Infinity) };
}

function sizeOf(random: Random, settings: Settings): number {
  const { bufferSize, maxBytes, maxRead, maxWrite } = settings;
  const piece = Math.min(bufferSize, maxRead, maxWrite);
  // More than the server drains.
  if (piece > 50_000 && random.chance(0.003)) return 1_200_000;
  const size = random.pick(1, 2, 5, 100, 1023, maxBytes, maxBytes + 1);
  return Math.min(size, 50 * piece); // not too many pieces
}

/** In the end the server is stopped, one way or the other. */
function controlsOf(random: Random, { timeout }: Settings): Control[] {
  const end = random.pick(momentOf(random), momentOf(random) + timeout);
  const controls: Control[] = [
    { at: end, do: random.pick("shutdown", "shutdown", "abort") },
  ];
  const more = random.pick(0, 0, 0, 1, 2);
  for (let i = 0; i < more; i++) {
    const at = end + random.pick(0, random.real(0, 100), random.real(0, 1500));
    controls.push({ at, do: random.pick("shutdown", "abort") });
  }
  const failures = random.pick(0, 0, 0, 1, 3);
  for (let i = 0; i < failures; i++) {
    controls.push({ at: momentOf(random), do: "fail an accept" });
  }
  return controls;
}
