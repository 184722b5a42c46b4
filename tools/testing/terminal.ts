/**
 * A terminal, with a command that runs on it.
 *
 * @module
 */

import { assert } from "@std/assert";
import { bytesOf } from "./bytes.ts";
import { needs } from "./needs.ts";

/** The command on its own terminal. Its output has `\r\n`. */
export class Terminal implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  text = "";

  constructor(command: string) {
    this.#child = new Deno.Command("script", {
      args: ["-qec", command, "/dev/null"],
      cwd: new URL("../..", import.meta.url),
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
      env: { NO_COLOR: "1", SHELL: "/bin/sh" }, // script runs $SHELL
    }).spawn();
    this.#writer = this.#child.stdin.getWriter();
    this.#reader = this.#child.stdout
      .pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Waits until the screen shows something. */
  async shows(pattern: RegExp): Promise<RegExpMatchArray> {
    for (let match;;) {
      if ((match = this.text.match(pattern))) return match;
      const { done, value } = await this.#reader.read();
      assert(!done, `ended without ${pattern}: ${this.text}`);
      this.text += value;
    }
  }

  async type(text: string): Promise<void> {
    await this.#writer.write(bytesOf(text));
  }

  async code(): Promise<number> {
    return (await this.#child.status).code;
  }

  /** Closes the terminal. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    await this.#writer.close().catch(() => {});
    await this.#reader.cancel();
  }
}

/** A test that needs a terminal. */
export const withTerminal = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read"], ["script"], name, fn);
