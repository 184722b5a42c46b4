/** Unix sockets: their files, permissions and addresses. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  onTerminal,
  runMain,
  runPretending,
  ServerProcess,
} from "../testing/processes.ts";
import { output } from "../testing/child.ts";
import { folder, ROOT } from "../testing/folder.ts";
import { GREETING, numbers } from "../testing/bytes.ts";
import { ask, readExactly } from "../testing/clients.ts";
import { needs } from "../testing/needs.ts";
import { delay, turn } from "../testing/timing.ts";

const withUnix = (name: string, fn: () => Promise<void>) =>
  needs(["net", "run", "read", "write"], [], `Unix socket: ${name}`, fn);

withUnix("the exchange, and no file is left", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
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
  assertEquals([...Deno.readDirSync(dir.path)], []);
});

/** The command on a Unix socket, in a folder that is removed with it. */
async function startOnUnix(...args: string[]) {
  const { path: dir, ...disposable } = await folder();
  const path = `${dir}/echo.sock`;
  const command = new ServerProcess(
    ["--unix", path, ...args],
    runMain("--allow-all"),
  );
  const dispose = async () => {
    await command[Symbol.asyncDispose]();
    await disposable[Symbol.asyncDispose]();
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
  await output(["python3", "-c", script, address, path]);
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
    await output(["python3", "-c", script, path]);
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
  await using dir = await folder();
  const path = `${dir.path}/\x1b[31mred`;
  await using command = new ServerProcess(
    ["--unix", path],
    runMain("--allow-all"),
  );
  await command.ready();
  const address = `${dir.path}/\\u001b[31mred`;
  assertEquals(command.stdout.all, [`wait... listening on ${address}`]);
  command.kill("SIGTERM");
  await command.code();
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
    await using dir = await folder();
    const inject = "-f -qq -o /dev/null -e inject=bind:signal=SIGTERM";
    await using command = new ServerProcess(
      ["--unix", `${dir.path}/echo.sock`],
      ["strace", ...inject.split(" "), ...runMain("--allow-all")],
    );
    assertEquals(await command.code(), 0);
    assertEquals([...Deno.readDirSync(dir.path)], []);
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
  await using dir = await folder();
  const taken = `${dir.path}/taken`;
  await Deno.writeTextFile(taken, "");
  const cases: [string, string, string[]?][] = [
    [taken, "the path already exists"],
    [`${dir.path}/none/a`, "no such file or directory"],
    [
      `${dir.path}/a`,
      `run it with --allow-write=${dir.path}/a`,
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
});

needs(
  ["net", "run", "read", "write"],
  ["setpriv"],
  "Unix socket: a folder that may not be written to is one line",
  async () => {
    await using dir = await folder();
    await Deno.chmod(dir.path, 0o500);
    // Root may write anywhere, unless it gives its capabilities up.
    const asUser = `[ "$(id -u)" != 0 ] ||
      exec setpriv --bounding-set=-all --inh-caps=-all "$@"; exec "$@"`;
    const path = `${dir.path}/a`;
    await using command = new ServerProcess(
      ["--unix", path],
      ["sh", "-c", asUser, "sh", ...runMain("--allow-all")],
    );
    assertEquals(await command.code(), 1);
    assertEquals(command.stderr.all, [
      `echo-server: cannot listen on ${path}: permission denied`,
    ]);
  },
);

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

withUnix("a socket with a relative path is replaced too", async () => {
  await using dir = await folder();
  await leaveSocket(`${dir.path}/a`);
  await using command = new ServerProcess(
    ["--unix", "a"],
    ["sh", "-c", 'cd "$0"; exec "$@"', dir.path]
      .concat(runMain("--allow-all").with(-1, `${ROOT}/main.ts`)),
  );
  await command.ready();
  assertEquals(await exchangeOn(`${dir.path}/a`, "hoge"), `${GREETING}hoge`);
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
    const why = name === "live"
      ? "another server listens there"
      : "the path already exists";
    assertEquals(command.stderr.all, [
      `echo-server: cannot listen on ${path(name)}: ${why}`,
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
  assertMatch(
    unread.stderr.all[0],
    /left it, and its folder cannot be read or locked$/,
  );
  assertEquals([...Deno.readDirSync(dir.path)], before);
  assertEquals(await Deno.readTextFile(path("file")), "hoge");
});

withUnix("a server that runs does not hold the lock", async () => {
  await using server = await startOnUnix();
  const { dir, command } = server;
  await command.ready();
  using folder = await Deno.open(dir);
  assert(await folder.tryLock(true));
});

withUnix("a lock that somebody holds for a moment is waited for", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  await leaveSocket(path);
  using holder = await Deno.open(dir.path);
  await holder.lock(true);
  await using command = new ServerProcess(
    ["--unix", path],
    runMain("--allow-all"),
  );
  await delay(200); // a slow machine proves less
  await holder.unlock();
  await command.ready();
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
            `echo-server: cannot listen on ${path}: another server listens there`,
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

needs(
  ["net", "run", "read", "write"],
  ["script"],
  "Unix socket: permission for the path suffices, and no more is asked for",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/echo.sock`;
    const permissions = `--allow-net=unix:${path} --allow-read=${path}`;
    await using terminal = onTerminal(
      `exec '${Deno.execPath()}' run ${permissions} --allow-write=${path} main.ts --unix ${path}`,
    );
    const [line] = await terminal.shows(/listening on .*|Allow\?/);
    assertEquals(line, `listening on ${path}`);
  },
);
