/** What the command can listen on, and with which permissions. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { runMain, runPretending, ServerProcess } from "../testing/command.ts";
import { output } from "../testing/child.ts";
import { folder } from "../testing/folder.ts";
import { GREETING } from "../testing/bytes.ts";
import { ask, connect, exchange, greetMany } from "../testing/clients.ts";
import { IPV6, queueOf, withCommand, withFiles } from "../testing/needs.ts";
import { createCertificate } from "../testing/transports.ts";

/** Runs the command, which refuses to start. */
async function refuses(args: string[], why: string, program?: string[]) {
  await using command = new ServerProcess(args, program);
  await command.refuses(why);
}

withCommand(
  "listening: a system error is one line and exit code 1",
  async () => {
    using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = taken.addr;
    const cases: [string[], string, string[]?][] = [
      [
        ["--host", "127.0.0.1", "--port", `${port}`],
        `127.0.0.1:${port}: the port is in use`,
      ],
      [
        ["--host", "192.0.2.1", "--port", "0"],
        "192.0.2.1:0: this machine does not have that address",
      ],
      [["--host", "a: b\n", "--port", "0"], "a: b :0: invalid host 'a: b '"],
      [
        ["--host", "a\x1b[31m", "--port", "0"],
        String.raw`a\u001b[31m:0: invalid host 'a\u001b[31m'`,
      ],
      [
        ["--host", "[::1]", "--port", "0"],
        "[::1]:0: run it with --allow-net=[::1]:0",
        runMain(),
      ],
      [
        ["--host", "2001:db8::1", "--port", "31002"],
        "[2001:db8::1]:31002: run it with --allow-net=[2001:db8::1]:31002",
        runMain("--allow-net=0.0.0.0:31001"),
      ],
    ];
    for (const [args, why, program] of cases) {
      await refuses(args, `cannot listen on ${why}`, program);
    }
  },
);

withCommand(
  "listening: it needs no permission except for its address and port",
  async () => {
    await using command = new ServerProcess(
      ["--host", "127.0.0.1", "--port", "0"],
      runMain("--allow-net=127.0.0.1:0"),
    );
    await command.ready();
  },
);

withCommand("listening: an IPv6 address is in brackets", async () => {
  await using command = new ServerProcess(["--host", "::1", "--port", "0"]);
  await command.ready();
  assertMatch(command.stdout.all[0], /listening on \[::1\]:\d+$/);
}, [IPV6]);

if (Deno.build.os === "linux") {
  withCommand(
    "listening: --reuse-port, two share a port and either may stop",
    async () => {
      await using one = new ServerProcess(["-p0", "--reuse-port"]);
      const port = await one.ready();
      await using two = new ServerProcess(["-p", `${port}`, "--reuse-port"]);
      await two.ready();
      await using alone = new ServerProcess(["-p", `${port}`]);
      await alone.refuses( // whoever does not share
        `cannot listen on 0.0.0.0:${port}: the port is in use`,
      );

      using inProgress = await greetMany(port, 100);
      one.kill("SIGTERM");
      await one.event("shutdown");
      for (const conn of inProgress) {
        assertEquals(await ask(conn, "hoge"), "hoge");
      }
      assertEquals(await one.code(), 0);
      for (let i = 0; i < 100; i++) { // from now on the other takes all
        assertEquals(await exchange(port, "hoge"), GREETING + "hoge");
      }
      two.kill("SIGTERM");
      assertEquals(await two.code(), 0);

      const echoed = await Promise.all([one, two].map(async (command) => {
        const summary = await command.event("summary");
        return Number(summary.match(/echoed=(\d+) .* error=0$/)?.[1]);
      }));
      assert(echoed.every((count) => count > 10), `${echoed}`);
      assertEquals(echoed[0] + echoed[1], 200);
    },
  );
}

withCommand("listening: 4096 clients may wait to be accepted", async () => {
  await using command = new ServerProcess(["-p0"]);
  const port = await command.ready();
  const socket = await output(["ss", "-Hltn", `sport = :${port}`]);
  assertMatch(socket, /^LISTEN +0 +4096 /);
}, [queueOf(4096), "ss"]);

withCommand(
  "listening: a binary is to be compiled with more",
  () =>
    refuses(
      ["-p0"],
      "cannot listen on 0.0.0.0:0: compile it with --allow-net=0.0.0.0:0",
      runPretending(
        `Deno.listen = () => {
          throw new Deno.errors.NotCapable(
            'Requires net access to "0.0.0.0:0", specify the required ' +
            'permissions during compilation using \\x60deno compile --allow-net\\x60');
        }`,
        "--allow-net",
      ),
    ),
);

/** A folder with a key, a certificate, and what is neither. */
async function pemFiles() {
  const { path: dir, ...disposable } = await folder();
  const [cert, key, other, junk] = ["cert", "key", "other", "junk"]
    .map((name) => `${dir}/${name}.pem`);
  const CERTIFICATE = /-----BEGIN CERTIFICATE[^]*/;
  const pem = await createCertificate();
  await Deno.writeTextFile(cert, pem.match(CERTIFICATE)![0]);
  await Deno.writeTextFile(key, pem.replace(CERTIFICATE, ""));
  const another = await createCertificate();
  await Deno.writeTextFile(other, another.replace(CERTIFICATE, ""));
  await Deno.writeTextFile(junk, "no PEM");
  return { dir, cert, key, other, junk, ...disposable };
}

const withTls = (name: string, fn: () => Promise<void>) =>
  withFiles(`TLS: ${name}`, fn, ["openssl"]);

withTls(
  "the exchange, with permission for its port and its two files",
  async () => {
    await using files = await pemFiles();
    const { cert, key } = files;
    await using command = new ServerProcess(
      ["-p0", "--host=127.0.0.1", "--cert", cert, "--key", key, "-v"],
      runMain("--allow-net=127.0.0.1:0", `--allow-read=${cert},${key}`),
    );
    const port = await command.ready();
    assertEquals(command.stdout.all, [
      `wait... listening on 127.0.0.1:${port} (TLS)`,
    ]);
    const caCerts = [await Deno.readTextFile(cert)];
    using conn = await Deno.startTls(await connect(port), {
      hostname: "localhost",
      caCerts,
    });
    assertEquals(await ask(conn, "hoge"), `${GREETING}hoge`);
    assertMatch(
      await command.event("exchange"),
      /remote=127.0.0.1:\d+ outcome=echoed bytes=4 /,
    );
    command.kill("SIGTERM");
    assertEquals(await command.code(), 0);
  },
);

withTls("--reuse-port shares the port", async () => {
  await using files = await pemFiles();
  await using command = new ServerProcess(
    ["-p0", "--reuse-port", "--cert", files.cert, "--key", files.key],
    runMain("--allow-net", "--allow-read"),
  );
  const port = await command.ready();
  Deno.listen({ port, reusePort: true }).close(); // or the port is in use
});

withTls("a refusal is one line that names the file or the host", async () => {
  await using files = await pemFiles();
  const { dir, cert, key, other, junk } = files;
  const script = `cd "$0"
openssl genrsa -out 1024 1024
openssl genrsa -out plain 2048
openssl ecparam -name secp256k1 -genkey -noout -out k1
encrypt="openssl rsa -in plain -aes128 -passout pass:hoge"
$encrypt -out encrypted
$encrypt -traditional -out traditional`;
  await output(["sh", "-ec", script, dir]);
  const none = `${dir}/none.pem`;
  const unsupported =
    "is not a key that Deno supports: try RSA of 2048 bits or P-256";
  const tls = (cert: string, key: string) => ["--cert", cert, "--key", key];
  const cases: [string[], string, string[]?][] = [
    [tls(none, key), `cannot read ${none}: no such file or directory`],
    [tls(cert, none), `cannot read ${none}: no such file or directory`],
    [tls(dir, key), `cannot read ${dir}: is a directory`],
    [tls(junk, key), `${junk} is not a PEM certificate`],
    [tls(cert, cert), `${cert} is not a PEM private key`],
    [tls(cert, junk), `${junk} is not a PEM private key`],
    [tls(cert, other), `${other} does not match ${cert}`],
    [tls(cert, `${dir}/1024`), `${dir}/1024 ${unsupported}`],
    [tls(cert, `${dir}/k1`), `${dir}/k1 ${unsupported}`],
    [tls(cert, `${dir}/encrypted`), `${dir}/encrypted is encrypted`],
    [tls(cert, `${dir}/traditional`), `${dir}/traditional is encrypted`],
    [
      tls(cert, key),
      `cannot read ${key}: run it with --allow-read=${key}`,
      ["--allow-net", `--allow-read=${cert}`],
    ],
    [
      ["--host", "certificate!", ...tls(cert, key)], // it is not blamed on it
      "cannot listen on certificate!:0: invalid host 'certificate!'",
    ],
    [
      ["--host", "my-key.example", ...tls(cert, key)],
      "cannot listen on my-key.example:0: run it with --allow-net=my-key.example:0",
      ["--allow-read"],
    ],
  ];
  const all = ["--allow-net", "--allow-read"];
  for (const [args, why, permissions = all] of cases) {
    const program = runMain(...permissions);
    await refuses(["-p0", ...args], why, program);
  }
});

withTls("the log says why an exchange has failed", async () => {
  await using files = await pemFiles();
  await using command = new ServerProcess(
    ["-p0", "--cert", files.cert, "--key", files.key, "-v"],
    runMain("--allow-net", "--allow-read"),
  );
  const port = await command.ready();
  const client = (options: string) =>
    output(`openssl s_client -connect 127.0.0.1:${port} ${options}`.split(" "))
      .catch(() => {}); // it is refused, or refuses
  await exchange(port, "plain text \x1b[31m").catch(() => {});
  await command.event("exchange", 1);
  await client("-tls1_1 -cipher ALL:@SECLEVEL=0");
  await command.event("exchange", 2);
  await client("-verify_return_error"); // it does not know the certificate
  await command.event("exchange", 3);
  const reasons = command.stderr.all
    .map((line) => line.match(/ error="(.+)"$/)?.[1] ?? "");
  assertEquals(new Set(reasons).size, 3, `${command.stderr.all}`);
  for (const reason of reasons) assertMatch(reason, /^[\w :()]+$/);
  assertEquals(`${reasons}`.includes("plain"), false);
});
