/** What the command can listen on, and with which permissions. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  runMain,
  runMainLimited,
  ServerProcess,
} from "../testing/processes.ts";
import { bytesOf, GREETING, textOf } from "../testing/bytes.ts";
import {
  ask,
  connect,
  connectMany,
  exchange,
  greetMany,
  readExactly,
  readText,
} from "../testing/clients.ts";
import {
  exists,
  type Need,
  needs,
  queueOf,
  withCommand,
} from "../testing/needs.ts";
import { delay, stopwatch, tryWithin, turn } from "../testing/timing.ts";
import { createCertificate } from "../testing/transports.ts";

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
  "Unix socket: control characters in a client's address are escaped",
  async () => {
    for (const [format, key] of [["-v", "remote="], ["--json", '"remote":']]) {
      await using server = await startOnUnix(
        "-v",
        ...format.match(/--.*/) ?? [],
      );
      const { dir, path, command } = server;
      await command.ready();
      await connectFrom(`${dir}/"\x1b[31m\u009b\u202e\x7f\u{e0001}`, path);
      const line = await command.event("exchange");
      const red = '\\"\\u001b[31m\\u009b\\u202e\\u007f\\udb40\\udc01';
      assert(line.includes(`${key}"${dir}/${red}"`), line);
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

needs(
  ["net", "run", "read"],
  [queueOf(150)],
  "out of file descriptors when the grace ends: the queue gets a clean EOF",
  async () => {
    await using command = new ServerProcess(
      ["-p0", "--grace=0.3"],
      runMainLimited(),
    );
    const port = await command.ready();
    using _silent = await connectMany(port, 50);
    await command.event("accept-error");
    using queued = await connectMany(port, 100);
    await Promise.all(
      queued.map((conn) => conn.write(bytesOf("hoge"))),
    );
    command.kill("SIGTERM");
    for (const conn of queued) {
      assertEquals(await readText(conn), ""); // a reset would reject
    }
    assertEquals(await command.code(), 0);
  },
);

withCommand(
  "stopped for longer than the timeout: data that had arrived is echoed",
  () =>
    tryWithin([1, 4, 16], async (timeout) => {
      await using command = new ServerProcess(["-p0", `--timeout=${timeout}`]);
      const port = await command.ready();
      const sinceConnect = stopwatch();
      // So many that they cannot all be read in one turn of the event loop.
      using clients = await greetMany(port, 1000);
      command.kill("SIGSTOP");
      if (sinceConnect() >= timeout) return "late";
      const sinceStop = stopwatch();
      await Promise.all(clients.map((conn) => conn.write(bytesOf("hoge"))));
      while (sinceStop() < timeout + 0.1) {
        await delay(100);
      }
      command.kill("SIGCONT");
      const echoes = await Promise.all(clients.map(readText));
      assertEquals(echoes, clients.map(() => "hoge"));
    }),
);

/** Kills a listening socket, and says whether it could. */
function killSocket(port: number): boolean {
  const { stdout } = new Deno.Command("ss", {
    args: ["-H", "-K", "-ltn", `sport = :${port}`],
    stderr: "null",
  }).outputSync();
  return textOf(stdout).includes(`:${port}`);
}

const SS_KILL: Need = {
  name: "ss -K (root, and a kernel that allows it)",
  isMet() {
    if (!exists("ss")) return false;
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return killSocket(listener.addr.port);
  },
};

needs(
  ["net", "run", "read"],
  [SS_KILL],
  "a listener that has died ends the command with 1",
  async () => {
    await using command = new ServerProcess(["-p0"]);
    const port = await command.ready();
    using client = await connect(port);
    await readExactly(client, GREETING.length);
    assert(killSocket(port));
    assertEquals(await ask(client, "hoge"), "hoge");
    assertEquals(await command.code(), 1);
    const retries = command.stderr.all.slice(0, -2); // one a second
    const [failed, summary] = command.stderr.all.slice(-2);
    const error = 'error="Invalid argument (os error 22)"';
    assert(retries.length > 0);
    assert(retries.every((line) => line.endsWith(` accept-error ${error}`)));
    assert(failed.endsWith(` accept-failed ${error}`));
    assertMatch(summary, / summary echoed=1 /);
  },
);

needs(
  ["net", "run", "read"],
  ["ss"],
  "--timeout 0 turns TCP keep-alive on, as ss shows",
  async () => {
    for (const [timeout, expected] of [["0", true], ["60", false]] as const) {
      await using command = new ServerProcess(["-p0", "--timeout", timeout]);
      const port = await command.ready();
      using client = await connect(port);
      await readExactly(client, GREETING.length);
      const { stdout } = await new Deno.Command("ss", {
        args: ["-Htno", `sport = :${port}`],
      }).output();
      assertEquals(textOf(stdout).includes("timer:(keepalive"), expected);
      assertEquals(await exchange(port, "hoge"), `${GREETING}hoge`);
      assert(textOf(stdout).includes("ESTAB"));
    }
  },
);
