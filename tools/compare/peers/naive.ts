// The shortest Deno program that serves several clients at once.
const greeting = new TextEncoder().encode("Hello World!\r\n");

const listener = Deno.listen({
  hostname: "0.0.0.0",
  port: Number(Deno.args[0]),
  tcpBacklog: 4096,
});
for await (const conn of listener) exchange(conn);

async function exchange(conn: Deno.Conn): Promise<void> {
  try {
    await conn.write(greeting);
    const buffer = new Uint8Array(1024);
    const n = await conn.read(buffer);
    if (n !== null) await conn.write(buffer.subarray(0, n));
  } catch {
    // One client's error must not end the program.
  } finally {
    conn.close();
  }
}
