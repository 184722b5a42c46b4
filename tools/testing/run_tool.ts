/**
 * What the programs for developers do alike: refuse an option, end by a
 * signal together with what they have started, and say what is wrong.
 *
 * @module
 */

const SIGNALS: [Deno.Signal, number][] = [
  ["SIGHUP", 1],
  ["SIGINT", 2],
  ["SIGTERM", 15],
];

/** Aborted when the process gets a signal. The reason is the exit code. */
export function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const [signal, number] of SIGNALS) {
    Deno.addSignalListener(signal, () => controller.abort(128 + number));
  }
  return controller.signal;
}

/** What is wrong with the arguments, in one line. */
export class UsageError extends Error {}

/** Refuses an argument that `parseArgs` does not know. */
export function refuse(arg: string): never {
  const kind = arg.startsWith("-") ? "option" : "argument";
  throw new UsageError(`unknown ${kind} ${JSON.stringify(arg)}`);
}

/**
 * Runs a program, or prints its help, and ends the process. Says in one line on
 * stderr what is wrong; the exit code is 2 if it is the arguments.
 *
 * @param main Returns the exit code. The signal is aborted by Ctrl-C.
 */
export async function runTool(
  name: string,
  help: string,
  main: (args: string[], signal: AbortSignal) => Promise<number>,
): Promise<never> {
  const { args } = Deno;
  if (args.includes("--help") || args.includes("-h")) {
    console.log(help);
    Deno.exit(0);
  }
  const signal = interruption();
  try {
    Deno.exit(await main(args, signal));
  } catch (error) {
    if (signal.aborted) Deno.exit(signal.reason);
    console.error(`${name}: ${error instanceof Error ? error.message : error}`);
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}
