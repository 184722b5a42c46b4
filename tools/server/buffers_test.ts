/** How much memory read buffers take. */

import { assert } from "@std/assert";
import { bytesOf } from "../testing/bytes.ts";
import { greetMany, readText } from "../testing/clients.ts";
import { needs } from "../testing/needs.ts";
import { ServerProcess } from "../testing/processes.ts";

const MIB = 1 << 20;

for (const [maxBytes, clients] of [[16 * MIB, 100], [MIB, 1000]]) {
  needs(
    ["net", "run", "read"],
    ["ps"],
    `${clients} clients that may send ${maxBytes / MIB} MiB take under 100 MB`,
    async () => {
      await using command = new ServerProcess([
        "-p0",
        `--max-bytes=${maxBytes}`,
      ]);
      const port = await command.ready();
      for (let wave = 0; wave < 3; wave++) {
        using all = await greetMany(port, clients);
        await Promise.all(all.map((conn) => conn.write(bytesOf("hello"))));
        await Promise.all(all.map(readText));
      }
      const kB = await command.residentMemory();
      assert(kB > 0 && kB < 100_000, `${kB} kB`);
    },
  );
}
