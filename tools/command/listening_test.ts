/** What the command can listen on, and with which permissions. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { output } from "../testing/child.ts";
import { runMain, runPretending, ServerProcess } from "../testing/processes.ts";
import { folder } from "../testing/folder.ts";
import { GREETING } from "../testing/bytes.ts";
import {
  ask,
  connect,
  connectMany,
  exchange,
  greetMany,
} from "../testing/clients.ts";
import { IPV6, needs, queueOf, withCommand } from "../testing/needs.ts";
import { createCertificate } from "../testing/transports.ts";

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
      [["--host", "a b\n", "--port", "0"], "a b :0: invalid host"],
      [
        ["--host", "a\x1b[31m", "--port", "0"],
        String.raw`a\u001b[31m:0: invalid host 'a\u001b[31m'`,
      ],
      [
        ["--port", "0"],
        "0.0.0.0:0: run it with --allow-net=0.0.0.0:0",
        runMain(),
      ],
      [
        ["--port", "31002"],
        "0.0.0.0:31002: run it with --allow-net=0.0.0.0:31002",
        runMain("--allow-net=0.0.0.0:31001"),
      ],
    ];
    for (const [args, why, program] of cases) {
      await using command = new ServerProcess(args, program);
      assertEquals(await command.code(), 1);
      assertEquals(command.stdout.all, []);
      assertEquals(command.stderr.all.length, 1, `${command.stderr.all}`);
      const line = `echo-server: cannot listen on ${why}`;
      assertEquals(command.stderr.all[0].slice(0, line.length), line);
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

needs(
  ["net", "run", "read"],
  [IPV6],
  "listening: an IPv6 address is in brackets",
  async () => {
    await using command = new ServerProcess(["--host", "::1", "--port", "0"]);
    await command.ready();
    assertMatch(command.stdout.all[0], /listening on \[::1\]:\d+$/);
  },
);

if (Deno.build.os === "linux") {
  withCommand(
    "listening: --reuse-port, two share a port and either may stop",
    async () => {
      await using one = new ServerProcess(["-p0", "--reuse-port"]);
      const port = await one.ready();
      await using two = new ServerProcess(["-p", `${port}`, "--reuse-port"]);
      await two.ready();
      await using alone = new ServerProcess(["-p", `${port}`]);
      assertEquals(await alone.code(), 1); // whoever does not share is refused

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

needs(
  ["net", "run", "read"],
  [queueOf(4096), "ss"],
  "listening: 4096 clients may wait to be accepted",
  async () => {
    await using command = new ServerProcess(["-p0"]);
    const port = await command.ready();
    const socket = await output(["ss", "-Hltn", `sport = :${port}`]);
    assertMatch(socket, /^LISTEN +0 +4096 /);
  },
);

withCommand("listening: a binary is to be compiled with more", async () => {
  await using command = new ServerProcess(
    ["-p0"],
    runPretending(
      `Deno.listen = () => {
        throw new Deno.errors.NotCapable(
          'Requires net access to "0.0.0.0:0", specify the required ' +
          'permissions during compilation using \\x60deno compile --allow-net\\x60');
      }`,
      "--allow-net",
    ),
  );
  assertEquals(await command.code(), 1);
  assertEquals(command.stderr.all, [
    "echo-server: cannot listen on 0.0.0.0:0: compile it with --allow-net=0.0.0.0:0",
  ]);
});

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
  needs(["net", "run", "read", "write"], ["openssl"], `TLS: ${name}`, fn);

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
  const { cert, key } = files;
  const args = ["--reuse-port", "--cert", cert, "--key", key];
  const program = runMain("--allow-net", "--allow-read");
  await using one = new ServerProcess(["-p0", ...args], program);
  const port = await one.ready();
  await using two = new ServerProcess([`-p${port}`, ...args], program);
  assertEquals(await two.ready(), port);
});

withTls("a bad file is one line that names it", async () => {
  await using files = await pemFiles();
  const { dir, cert, key, other, junk } = files;
  const none = `${dir}/none.pem`;
  const cases: [string, string, string, string?][] = [
    [none, key, `cannot read ${none}: no such file or directory`],
    [cert, none, `cannot read ${none}: no such file or directory`],
    [dir, key, `cannot read ${dir}: is a directory`],
    [junk, key, `${junk} is not a PEM certificate`],
    [cert, junk, `${junk} is not a PEM private key`],
    [cert, cert, `${cert} is not a PEM private key`],
    [cert, other, `${other} does not match ${cert}`],
    [
      cert,
      key,
      `cannot read ${key}: run it with --allow-read=${key}`,
      `--allow-read=${cert}`,
    ],
  ];
  for (const [cert, key, line, permission = "--allow-read"] of cases) {
    await using command = new ServerProcess(
      ["-p0", "--cert", cert, "--key", key],
      runMain("--no-prompt", "--allow-net", permission),
    );
    assertEquals(await command.code(), 1);
    assertEquals(command.stderr.all, [`echo-server: ${line}`]);
  }
});

withTls("a key that cannot be used is one line that says why", async () => {
  await using files = await pemFiles();
  const { dir, cert } = files;
  const script = `cd "$0"
openssl genrsa -out 1024 1024
openssl genrsa -out plain 2048
openssl ecparam -name secp256k1 -genkey -noout -out k1
encrypt="openssl rsa -in plain -aes128 -passout pass:hoge"
$encrypt -out encrypted
$encrypt -traditional -out traditional`;
  await output(["sh", "-ec", script, dir]);
  const unsupported =
    "is not a key that Deno supports: try RSA of 2048 bits or P-256";
  const cases = [
    ["1024", unsupported],
    ["k1", unsupported],
    ["encrypted", "is encrypted"],
    ["traditional", "is encrypted"],
  ];
  for (const [name, why] of cases) {
    const key = `${dir}/${name}`;
    await using command = new ServerProcess(
      ["-p0", "--cert", cert, "--key", key],
      runMain("--allow-net", "--allow-read"),
    );
    assertEquals(await command.code(), 1);
    assertEquals(command.stderr.all, [`echo-server: ${key} ${why}`]);
  }
});

withTls("the log says why an exchange has failed", async () => {
  await using files = await pemFiles();
  const { cert, key } = files;
  const formats = [["-v", / error="(.+)"$/], [
    "--json",
    /"error":"(.+)"}$/,
  ]] as const;
  for (const [format, reason] of formats) {
    await using command = new ServerProcess(
      [
        "-p0",
        "--cert",
        cert,
        "--key",
        key,
        "-v",
        ...format === "-v" ? [] : [format],
      ],
      runMain("--allow-net", "--allow-read"),
    );
    const port = await command.ready();
    await exchange(port, "plain text \x1b[31m").catch(() => {});
    await command.event("exchange", 1);
    const client = `openssl s_client -connect 127.0.0.1:${port}`;
    const old = `${client} -tls1_1 -cipher ALL:@SECLEVEL=0`;
    await output(old.split(" ")).catch(() => {});
    await command.event("exchange", 2);
    const careful = `${client} -verify_return_error`; // it knows no certificate
    await output(careful.split(" ")).catch(() => {});
    await command.event("exchange", 3);
    const reasons = command.stderr.all.map((line) => line.match(reason)?.[1]);
    assertEquals(new Set(reasons).size, 3, `${command.stderr.all}`);
    for (const reason of reasons) assertMatch(`${reason}`, /^[\w :()]+$/);
    assertEquals(`${reasons}`.includes("plain"), false);
  }
});

withTls("an error that names the host is not blamed on the files", async () => {
  await using files = await pemFiles();
  const tls = ["--cert", files.cert, "--key", files.key];
  const cases: [string, string, string[]][] = [
    ["my-key.example", "run it with --allow-net=my-key.example:0", []],
    ["certificate!", "invalid host", ["--allow-net"]],
  ];
  for (const [host, why, permissions] of cases) {
    await using command = new ServerProcess(
      ["-p0", "--host", host, ...tls],
      runMain("--no-prompt", "--allow-read", ...permissions),
    );
    assertEquals(await command.code(), 1);
    const line = `echo-server: cannot listen on ${host}:0: ${why}`;
    assertEquals(command.stderr.all[0].slice(0, line.length), line);
  }
});

withTls(
  "clients without a handshake do not block other clients",
  async () => {
    await using files = await pemFiles();
    const { cert, key } = files;
    await using command = new ServerProcess(
      ["-p0", "--cert", cert, "--key", key, "-v"],
      runMain("--allow-net", "--allow-read"),
    );
    const port = await command.ready();
    using _silent = await connectMany(port, 200);
    const caCerts = [await Deno.readTextFile(cert)];
    using conn = await Deno.startTls(await connect(port), {
      hostname: "localhost",
      caCerts,
    });
    assertEquals(await ask(conn, "hoge"), `${GREETING}hoge`);
    await command.event("outcome=echoed");
    assertEquals(command.stderr.all.length, 1);
  },
);
