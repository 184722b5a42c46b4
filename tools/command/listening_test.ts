/** What the command can listen on, and with which permissions. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { runMain, ServerProcess } from "../testing/processes.ts";
import { GREETING, numbers, textOf } from "../testing/bytes.ts";
import {
  ask,
  connect,
  connectMany,
  exchange,
  greetMany,
  readExactly,
} from "../testing/clients.ts";
import { IPV6, needs, queueOf, withCommand } from "../testing/needs.ts";
import { turn } from "../testing/timing.ts";
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
    const { stdout } = await new Deno.Command("ss", {
      args: ["-Hltn", `sport = :${port}`],
    }).output();
    assertMatch(textOf(stdout), /^LISTEN +0 +4096 /);
  },
);

/** Runs `main.ts` after a script that makes Deno pretend to be another. */
const runPretending = (script: string, ...permissions: string[]) =>
  runMain(`--preload=data:application/javascript,${script}`, ...permissions);

withCommand("listening: a binary is to be compiled with more", async () => {
  await using command = new ServerProcess(
    ["-p0"],
    runPretending(
      "Object.defineProperty(Deno, 'build', { value: { standalone: true } })",
      "--no-prompt",
    ),
  );
  assertEquals(await command.code(), 1);
  assertEquals(command.stderr.all, [
    "echo-server: cannot listen on 0.0.0.0:0: compile it with --allow-net=0.0.0.0:0",
  ]);
});

/** A folder with a key, a certificate, and what is neither. */
async function pemFiles() {
  const dir = await Deno.makeTempDir();
  const [cert, key, other, junk] = ["cert", "key", "other", "junk"]
    .map((name) => `${dir}/${name}.pem`);
  const CERTIFICATE = /-----BEGIN CERTIFICATE[^]*/;
  const pem = await createCertificate();
  await Deno.writeTextFile(cert, pem.match(CERTIFICATE)![0]);
  await Deno.writeTextFile(key, pem.replace(CERTIFICATE, ""));
  const another = await createCertificate();
  await Deno.writeTextFile(other, another.replace(CERTIFICATE, ""));
  await Deno.writeTextFile(junk, "no PEM");
  return {
    ...{ dir, cert, key, other, junk },
    [Symbol.asyncDispose]: () => Deno.remove(dir, { recursive: true }),
  };
}

const withTls = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read", "write"], ["openssl"], `TLS: ${name}`, fn);
const withUnix = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read", "write"], [], `Unix socket: ${name}`, fn);

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
  const openssl = (...args: string[]) =>
    new Deno.Command("openssl", { args, cwd: dir }).output();
  await openssl(..."genrsa -out 1024 1024".split(" "));
  await openssl(..."genrsa -out plain 2048".split(" "));
  await openssl(..."ecparam -name secp256k1 -genkey -noout -out k1".split(" "));
  const encrypt = "rsa -in plain -aes128 -passout pass:hoge".split(" ");
  await openssl(...encrypt, "-out", "encrypted");
  await openssl(...encrypt, "-traditional", "-out", "traditional");
  const unsupported =
    "is no key that Deno supports: try RSA of 2048 bits or P-256";
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
    const old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    await new Deno.Command("openssl", {
      args: ["s_client", ...old, "-connect", `127.0.0.1:${port}`],
    }).output();
    await command.event("exchange", 2);
    using refusing = await Deno.startTls(await connect(port), {
      hostname: "localhost", // whose certificate it does not know
    });
    await refusing.handshake().catch(() => {});
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

withUnix("the exchange, and no file is left", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/echo.sock`;
  await using command = new ServerProcess(
    ["--unix", path, "-v"],
    runMain(
      `--allow-net=unix:${path}`,
      `--allow-read=${path}`,
      `--allow-write=${path}`,
    ),
  );
  await command.ready();
  assertEquals(command.stdout.all, [`wait... listening on ${path}`]);
  {
    using conn = await Deno.connect({ transport: "unix", path });
    assertEquals(await ask(conn, "hoge"), `${GREETING}hoge`);
  }
  assertMatch(
    await command.event("exchange"),
    / remote=unix outcome=echoed bytes=4 /,
  );
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertEquals([...Deno.readDirSync(dir)], []);
  await Deno.remove(dir);
});

/** A folder that is removed at the end. */
async function folder() {
  const path = await Deno.makeTempDir();
  const remove = () => Deno.remove(path, { recursive: true });
  return { path, [Symbol.asyncDispose]: remove };
}

/** The command on a Unix socket, in a folder that is removed with it. */
async function startOnUnix(...args: string[]) {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/echo.sock`;
  const command = new ServerProcess(
    ["--unix", path, ...args],
    runMain("--allow-all"),
  );
  const dispose = async () => {
    await command[Symbol.asyncDispose]();
    await Deno.remove(dir, { recursive: true });
  };
  return { dir, path, command, [Symbol.asyncDispose]: dispose };
}

/** One exchange by a client that is bound to its own address. */
async function connectFrom(address: string, path: string): Promise<void> {
  const script = `import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.connect(sys.argv[2])
s.shutdown(socket.SHUT_WR)
while s.recv(99): pass`;
  await new Deno.Command("python3", {
    args: ["-c", script, address, path],
  }).output();
}

needs(
  ["net", "run", "read", "write"],
  ["python3"],
  "Unix socket: a client whose address is not UTF-8 does not block others",
  async () => {
    await using server = await startOnUnix();
    const { path, command } = server;
    await command.ready();
    const script = `import socket, sys
for i in range(50):
    s = socket.socket(socket.AF_UNIX)
    s.bind(b"\\0\\xff" + sys.argv[1].encode() + str(i).encode())
    s.connect(sys.argv[1])
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.send(b"hoge")
while s.recv(99): pass`;
    const { success } = await new Deno.Command("python3", {
      args: ["-c", script, path],
    }).output();
    assert(success);
    command.kill("SIGTERM");
    assertMatch(await command.event("summary"), / echoed=1 /);
    assertEquals(
      command.stderr.all.filter((line) => line.includes("accept-error")),
      [],
    );
    await command.code();
  },
);

withUnix("a signal as soon as the file exists leaves no file", async () => {
  await using server = await startOnUnix();
  const { dir, command } = server;
  const exists = () => [...Deno.readDirSync(dir)].length > 0;
  while (!exists() && !command.ended) await turn();
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertEquals(exists(), false);
});

needs(
  ["net", "run", "read", "write"],
  ["python3"],
  "Unix socket: a client's address is quoted, its control characters escaped",
  async () => {
    const addresses = [
      ['"', '\\"'],
      ["a  b\\", "a  b\\\\"],
      [
        "\x1b[31m\u009b\u202e\u2028\x7f\u{e0001}",
        "\\u001b[31m\\u009b\\u202e\\u2028\\u007f\\udb40\\udc01",
      ],
    ];
    for (const [format, key] of [["-v", "remote="], ["--json", '"remote":']]) {
      await using server = await startOnUnix(
        "-v",
        ...format.match(/--.*/) ?? [],
      );
      const { dir, path, command } = server;
      await command.ready();
      for (const [i, [address, escaped]] of addresses.entries()) {
        await connectFrom(`${dir}/${address}`, path);
        const line = await command.event("exchange", i + 1);
        assert(line.includes(`${key}"${dir}/${escaped}"`), line);
      }
      command.kill("SIGTERM");
      await command.code();
    }
  },
);

withUnix("the ready line escapes control characters", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/\x1b[31mred`;
  await using command = new ServerProcess(
    ["--unix", path],
    runMain("--allow-all"),
  );
  await command.ready();
  const address = `${dir}/\\u001b[31mred`;
  assertEquals(command.stdout.all, [`wait... listening on ${address}`]);
  command.kill("SIGTERM");
  await command.code();
  await Deno.remove(dir, { recursive: true });
});

withUnix("the ready line in JSON has exactly the path", async () => {
  await using dir = await folder();
  const path = `${dir.path}/a  b\u3000\u00ad\u2028"\\\x1b`;
  await using command = new ServerProcess(
    ["--unix", path, "--json"],
    runMain("--allow-all"),
  );
  const [line] = await command.stdout.waitFor(1);
  assertMatch(line, /^[\x20-\x7e\u3000]+$/); // one line, and safe to show
  assertEquals(JSON.parse(line).address, path);
});

needs(
  ["net", "run", "read", "write"],
  ["strace"],
  "Unix socket: a signal during bind() leaves no file",
  async () => {
    const dir = await Deno.makeTempDir();
    const inject = "-f -qq -o /dev/null -e inject=bind:signal=SIGTERM";
    await using command = new ServerProcess(
      ["--unix", `${dir}/echo.sock`],
      ["strace", ...inject.split(" "), ...runMain("--allow-all")],
    );
    assertEquals(await command.code(), 0);
    assertEquals([...Deno.readDirSync(dir)], []);
    await Deno.remove(dir, { recursive: true });
  },
);

withUnix("no file is left when a later signal ends it at once", async () => {
  await using server = await startOnUnix("--mode=serial", "--timeout=0");
  const { dir, path, command } = server;
  await command.ready();
  using idle = await Deno.connect({ transport: "unix", path });
  await readExactly(idle, GREETING.length);
  await command.killRepeatedly("SIGTERM");
  assertEquals(await command.code(), 143);
  assertEquals([...Deno.readDirSync(dir)], []);
});

withUnix("a refusal is one line that names the path", async () => {
  const dir = await Deno.makeTempDir();
  const taken = `${dir}/taken`;
  await Deno.writeTextFile(taken, "");
  const cases: [string, string, string[]?][] = [
    [taken, "the path already exists"],
    [`${dir}/none/a`, "no such file or directory"],
    [
      `${dir}/a`,
      `run it with --allow-write=${dir}/a`,
      ["--allow-net", "--allow-read"],
    ],
  ];
  for (const [path, why, permissions = ["--allow-all"]] of cases) {
    await using command = new ServerProcess(
      ["--unix", path],
      runMain("--no-prompt", ...permissions),
    );
    assertEquals(await command.code(), 1);
    const line = `echo-server: cannot listen on ${path}: ${why}`;
    assertEquals(command.stderr.all, [line]);
  }
  assertEquals(await Deno.readTextFile(taken), ""); // it was left alone
  await Deno.remove(dir, { recursive: true });
});

withUnix("a folder that may not be written to is one line", async () => {
  await using dir = await folder();
  await Deno.chmod(dir.path, 0o500);
  // Root may write anywhere, unless it gives its capabilities up.
  const asUser = Deno.uid() === 0
    ? ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    : [];
  const path = `${dir.path}/a`;
  await using command = new ServerProcess(
    ["--unix", path],
    [...asUser, ...runMain("--allow-all")],
  );
  assertEquals(await command.code(), 1);
  assertEquals(command.stderr.all, [
    `echo-server: cannot listen on ${path}: not permitted`,
  ]);
});

withUnix("before 2.9, Deno does not know the permission", async () => {
  await using dir = await folder();
  await using command = new ServerProcess(
    ["--unix", `${dir.path}/a`],
    runPretending(
      `const { requestSync } = Deno.permissions;
      Deno.permissions.requestSync = (permission) => {
        if (/^unix:/.test(permission.host)) throw new URIError("invalid");
        return requestSync.call(Deno.permissions, permission);
      };`,
      "--allow-all",
    ),
  );
  await command.ready();
});

/** The file of a Unix socket that a server has left behind. */
async function leaveSocket(path: string): Promise<void> {
  await using command = new ServerProcess(
    ["--unix", path],
    runMain("--allow-all"),
  );
  await command.ready();
  command.kill("SIGKILL");
  await command.code();
  assert(Deno.lstatSync(path).isSocket);
}

async function exchangeOn(path: string, message: string): Promise<string> {
  using conn = await Deno.connect({ transport: "unix", path });
  return await ask(conn, message);
}

withUnix("a socket that a killed server left is replaced", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  await leaveSocket(path);
  await using command = new ServerProcess(
    ["--unix", path],
    runMain(
      `--allow-net=unix:${path}`,
      `--allow-read=${dir.path}`,
      `--allow-write=${path}`,
    ),
  );
  await command.ready();
  assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertEquals([...Deno.readDirSync(dir.path)], []);
});

withUnix("a path is replaced only if it is a dead socket", async () => {
  await using dir = await folder();
  const path = (name: string) => `${dir.path}/${name}`;
  await leaveSocket(path("dead"));
  await Deno.symlink("dead", path("link to dead"));
  await Deno.symlink("nowhere", path("link to nowhere"));
  await Deno.writeTextFile(path("file"), "hoge");
  await Deno.mkdir(path("folder"));
  using _live = Deno.listen({ transport: "unix", path: path("live") });
  const refused = ["link to dead", "link to nowhere", "file", "folder", "live"];
  const before = [...Deno.readDirSync(dir.path)];
  for (const name of refused) {
    await using command = new ServerProcess(
      ["--unix", path(name)],
      runMain("--allow-all"),
    );
    assertEquals(await command.code(), 1);
    assertEquals(command.stderr.all, [
      `echo-server: cannot listen on ${path(name)}: the path already exists`,
    ]);
  }
  await using unread = new ServerProcess( // it may not lock the folder
    ["--unix", path("dead")],
    runMain(
      `--allow-net=unix:${path("dead")}`,
      `--allow-read=${path("dead")}`,
      `--allow-write=${path("dead")}`,
    ),
  );
  assertEquals(await unread.code(), 1);
  assertEquals([...Deno.readDirSync(dir.path)], before);
  assertEquals(await Deno.readTextFile(path("file")), "hoge");
});

withUnix("a lock that somebody holds for long is not waited for", async () => {
  await using dir = await folder();
  using holder = await Deno.open(dir.path);
  await holder.lock(true);
  await using command = new ServerProcess(
    ["--unix", `${dir.path}/a`],
    runMain("--allow-all"),
  );
  await command.ready();
});

for (const [count, rounds] of [[2, 10], [20, 3]]) {
  withUnix(`${count} that start at once: one of them serves`, async () => {
    await using dir = await folder();
    const path = `${dir.path}/echo.sock`;
    for (let round = 0; round < rounds; round++) { // the first finds no file
      const commands = numbers(count).map(() =>
        new ServerProcess(["--unix", path], runMain("--allow-all"))
      );
      try {
        const ready = await Promise.all(commands.map(async (command) => {
          const code = command.code().then(() => false);
          const line = command.stdout.waitFor(1).then(() => true);
          return await Promise.race([code, line]);
        }));
        assertEquals(ready.filter(Boolean).length, 1);
        assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
        for (const command of commands.filter((_, i) => !ready[i])) {
          assertEquals(await command.code(), 1);
          assertEquals(command.stderr.all, [
            `echo-server: cannot listen on ${path}: the path already exists`,
          ]);
        }
      } finally {
        for (const command of commands) await command[Symbol.asyncDispose]();
      }
    }
    assertEquals([...Deno.readDirSync(dir.path)].length, 1);
  });
}

needs(
  ["net", "run", "read", "write"],
  ["strace"],
  "Unix socket: one that is bound but does not listen yet is not replaced",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/echo.sock`;
    const inject = "-D -f -qq -o /dev/null -e inject=listen:delay_enter=500000";
    const program = runMain("--allow-all");
    await using slow = new ServerProcess(
      ["--unix", path],
      ["strace", ...inject.split(" "), ...program],
    );
    while ([...Deno.readDirSync(dir.path)].length === 0) await turn();
    await using second = new ServerProcess(["--unix", path], program);
    assertEquals(await second.code(), 1);
    await slow.ready();
    assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
  },
);
