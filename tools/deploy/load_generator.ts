/**
 * Makes exchanges with a server, eight at a time: the number that is given, or
 * until SIGTERM, but for two minutes at most. Prints every hundred and at the
 * end how many there were and how many failed. The checks run it in the networks
 * that they make. The address is a port of 127.0.0.1 or the path of a Unix socket.
 *
 * ```sh
 * deno run --allow-net tools/deploy/load_generator.ts 30000
 * ```
 *
 * @module
 */

const CLIENTS = 8;
const [address, count = "Infinity"] = Deno.args;

const connect = () =>
  address.startsWith("/")
    ? Deno.connect({ transport: "unix", path: address })
    : Deno.connect({ hostname: "127.0.0.1", port: Number(address) });

async function exchange(): Promise<boolean> {
  try {
    using conn = await connect();
    await conn.write(new TextEncoder().encode("hoge"));
    const answer = await new Response(conn.readable).text();
    return /^Hello .*\r\nhoge$/.test(answer);
  } catch {
    return false;
  }
}

let left = Number(count);
const end = performance.now() + 120_000;
let exchanges = 0;
let failed = 0;
const print = () => console.log(`exchanges=${exchanges} failed=${failed}`);
Deno.addSignalListener("SIGTERM", () => left = 0);
await Promise.all(Array.from({ length: CLIENTS }, async () => {
  while (left-- > 0 && performance.now() < end) {
    if (!await exchange()) failed++;
    if (++exchanges % 100 === 0) print();
  }
}));
print();
Deno.exit();
