/**
 * A pipe for the log, whose reader can be slow.
 *
 * @module
 */

import { textOf } from "./bytes.ts";
import { Output, output } from "./child.ts";
import { folder } from "./folder.ts";
import { delay } from "./timing.ts";

/**
 * A pipe with a name, which nobody reads until `read` is called. It holds some
 * 750 lines of the log; 2000 more wait in the service.
 */
export class Pipe implements AsyncDisposable {
  readonly lines = new Output();
  readonly path: string;
  readonly #dir: AsyncDisposable;
  readonly #file: Deno.FsFile;
  #reading?: Promise<void>;
  /** The pause after each read, in milliseconds. */
  pause = 0;
  reads = 0;

  private constructor(path: string, dir: AsyncDisposable) {
    this.path = path;
    this.#dir = dir;
    // A pipe that is open for writing too can be opened at once, and never ends.
    this.#file = Deno.openSync(path, { read: true, write: true });
  }

  /** Makes one that is full, so that whoever writes to it has to wait. */
  static async full(): Promise<Pipe> {
    const dir = await folder();
    const path = `${dir.path}/pipe`;
    await output(["mkfifo", path]);
    const pipe = new Pipe(path, dir);
    await pipe.#file.write(new Uint8Array(65_536).fill(10));
    return pipe;
  }

  read(size: number): void {
    this.#reading = (async () => {
      const chunk = new Uint8Array(size);
      while (this.lines.rest !== "end") {
        const n = await this.#file.read(chunk);
        this.reads++;
        await delay(this.pause);
        this.lines.add(textOf(chunk.subarray(0, n ?? 0)));
      }
    })();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#reading) await Deno.writeTextFile(this.path, "\nend");
    await this.#reading;
    this.#file.close();
    await this.#dir[Symbol.asyncDispose]();
  }
}
