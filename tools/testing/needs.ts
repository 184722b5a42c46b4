/**
 * Tests that are ignored, and say so, where something they need is missing.
 *
 * @module
 */

import { textOf } from "./bytes.ts";

/** What a test needs besides permissions: a program, or something else. */
export type Need = string | { name: string; isMet: () => boolean };

/** A test that is ignored, and says so, where something it needs is missing. */
export function needs(
  permissions: Deno.PermissionName[],
  others: Need[],
  name: string,
  fn: () => void | Promise<void>,
): void {
  const refused = permissions.filter((permission) => !isGranted(permission))
    .map((permission) => `--allow-${permission}`);
  const missing = refused.length > 0 ? refused : others
    .map((need) => typeof need === "string" ? program(need) : need)
    .filter(({ isMet }) => !isMet()).map(({ name }) => name);
  const why = missing.length > 0
    ? ` (ignored: needs ${missing.join(" ")})`
    : "";
  const ignore = why !== "";
  Deno.test({ name: name + why, ignore, fn, timeout: 60_000 }); // if it hangs
}

const isGranted = (name: Deno.PermissionName) =>
  Deno.permissions.querySync({ name }).state === "granted";

const program = (name: string) => ({ name, isMet: () => exists(name) });

const found = new Map<string, boolean>();

/** Whether a program is installed. */
export function exists(program: string): boolean {
  if (!found.has(program)) {
    const { success } = new Deno.Command("sh", {
      args: ["-c", 'command -v "$1"', "sh", program],
      stdout: "null",
    }).outputSync();
    found.set(program, success);
  }
  return found.get(program)!;
}

/** The user who may make containers. */
export const AS_ROOT: Need = { name: "root", isMet: () => Deno.uid() === 0 };

/** A kernel that lets `size` clients wait to be accepted, as far as known. */
export const queueOf = (size: number): Need => ({
  name: `net.core.somaxconn=${size}`,
  isMet() {
    if (!isGranted("run")) return true;
    const { stdout } = new Deno.Command("cat", { // Deno may not read /proc
      args: ["/proc/sys/net/core/somaxconn"],
      stderr: "null",
    }).outputSync();
    return Number(textOf(stdout)) >= size;
  },
});

/** An address of IPv6 to listen on. Containers often have none. */
export const IPV6: Need = {
  name: "IPv6",
  isMet() {
    try {
      Deno.listen({ hostname: "::1", port: 0 }).close();
    } catch (error) {
      if (error instanceof Deno.errors.AddrNotAvailable) return false;
      throw error;
    }
    return true;
  },
};

/** Kills a listening socket, and says whether it could. */
export function killSocket(port: number): boolean {
  const { stdout } = new Deno.Command("ss", {
    args: ["-H", "-K", "-ltn", `sport = :${port}`],
    stderr: "null",
  }).outputSync();
  return textOf(stdout).includes(`:${port}`);
}

export const SS_KILL: Need = {
  name: "ss -K (root, and a kernel that allows it)",
  isMet() {
    if (!exists("ss")) return false;
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return killSocket(listener.addr.port);
  },
};

type With = (name: string, fn: () => Promise<void>, others?: Need[]) => void;

/** A test that runs the command, and perhaps needs more. */
export const withCommand: With = (name, fn, others = []) =>
  needs(["net", "run", "read"], others, name, fn);

/** A test that also writes files. */
export const withFiles: With = (name, fn, others = []) =>
  needs(["net", "run", "read", "write"], others, name, fn);
