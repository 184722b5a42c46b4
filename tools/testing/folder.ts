/**
 * Folders: the project's, and those for the files of a test or a tool.
 *
 * @module
 */

/** The root of the project. */
export const ROOT = new URL("../..", import.meta.url).pathname;

/** Reads a file of the project. */
export const readFile = (path: string) =>
  Deno.readTextFileSync(`${ROOT}/${path}`);

/** Makes a folder. Declared with `await using`, it is removed at the end. */
export async function folder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await Deno.makeTempDir();
  const remove = () => Deno.remove(path, { recursive: true });
  return { path, [Symbol.asyncDispose]: remove };
}
