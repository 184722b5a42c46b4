/**
 * Folders for the files of a test.
 *
 * @module
 */

/** Makes a folder. Declared with `await using`, it is removed at the end. */
export async function folder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await Deno.makeTempDir();
  const remove = () => Deno.remove(path, { recursive: true });
  return { path, [Symbol.asyncDispose]: remove };
}
