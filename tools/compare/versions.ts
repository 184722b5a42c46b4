/**
 * The versions that a comparison depends on.
 *
 * @module
 */

import { output } from "../testing/child.ts";

/** What each program prints of its version. */
const COMMANDS = {
  kernel: ["uname", "-sr"],
  go: ["go", "version"],
  cc: ["cc", "--version"],
  cargo: ["cargo", "--version"],
  node: ["node", "--version"],
  bun: ["bun", "--version"],
  /** The commit of this service. */
  commit: ["git", "describe", "--always", "--dirty", "--exclude=*"],
};

/** Versions by name, undefined for what is not installed. */
export type Versions = Record<keyof typeof COMMANDS, string | undefined>;

/** Asks every program for its version. */
export async function readVersions(signal: AbortSignal): Promise<Versions> {
  const entries = Object.entries(COMMANDS).map(async ([name, command]) => [
    name,
    await firstLine(command, signal),
  ]);
  return Object.fromEntries(await Promise.all(entries));
}

/** The first line that a program prints; undefined if it fails. */
export async function firstLine(
  command: string[],
  signal: AbortSignal,
): Promise<string | undefined> {
  try {
    return (await output(command, { signal })).split("\n")[0];
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof Deno.errors.NotCapable) throw error;
    return undefined;
  }
}
