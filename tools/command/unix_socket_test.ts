/** Unix sockets: their files, permissions and addresses. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { runMain, runPretending, ServerProcess } from "../testing/command.ts";
import { after, output } from "../testing/child.ts";
import { folder, ROOT } from "../testing/folder.ts";
import { GREETING, numbers } from "../testing/bytes.ts";
import { exchangeOn, readExactly } from "../testing/clients.ts";
import { withFiles } from "../testing/needs.ts";
import { delay, turn } from "../testing/timing.ts";

const withUnix: typeof withFiles = (name, fn, others) =>
  withFiles(`Unix socket: ${name}`, fn, others);

/** The command on a Unix socket. */
const startOn = (path: string, ...args: string[]) =>
  new ServerProcess(["--unix", path, ...args], runMain("--allow-all"));

/** How to run it with permission for its path, and for what it may read. */
const runWith = (path: string, read = path) =>
  runMain(
    `--allow-net=unix:${path}`,
    `--allow-read=${read}`,
    `--allow-write=${path}`,
  );

/** How to run it under a strace that tampers with its system calls. */
const traced = (inject: string) => [
  ...`strace -D -f -qq -o /dev/null -e inject=${inject}`.split(" "),
  ...runMain("--allow-all"),
];

withUnix("the exchange, and no file is left", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  await using command = new ServerProcess(
    ["--unix", path, "-v"],
    runWith(path),
  );
  await command.ready();
  assertEquals(command.stdout.all, [`wait... listening on ${path}`]);
  assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
  assertMatch(
    await command.event("exchange"),
    / remote=unix outcome=echoed bytes=4 /,
  );
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertEquals([...Deno.readDirSync(dir.path)], []);
});

withUnix("odd addresses are quoted and escaped, and block nobody", async () => {
  await using dir = await folder();
  const path = `${dir.path}/\x1b[31mred`;
  await using command = startOn(path, "-v");
  await command.ready();
  assertEquals(command.stdout.all, [
    `wait... listening on ${dir.path}/\\u001b[31mred`,
  ]);
  const addresses = [
    ['"', '\\"'],
    ["a  b\\", "a  b\\\\"],
    [
      "\x1b[31m\u009b\u202e\u2028\x7f\u{e0001}",
      "\\u001b[31m\\u009b\\u202e\\u2028\\u007f\\udb40\\udc01",
    ],
  ];
  const script = `import socket, sys
def connect(address):
    s = socket.socket(socket.AF_UNIX)
    s.bind(address)
    s.connect(sys.argv[1])
    return s
for i in range(50):
    connect(b"\\0\\xff" + sys.argv[1].encode() + str(i).encode()) # not UTF-8
for address in sys.argv[2:]:
    s = connect(address)
    s.shutdown(socket.SHUT_WR)
    while s.recv(99): pass`;
  const paths = addresses.map(([it]) => `${dir.path}/${it}`);
  await output(["python3", "-c", script, path, ...paths]);
  await command.event("exchange", addresses.length);
  for (const [i, [, escaped]] of addresses.entries()) {
    const line = command.stderr.all[i]; // no accept-error came before
    assert(line.includes(` exchange remote="${dir.path}/${escaped}" `), line);
  }
}, ["python3"]);

withUnix("the ready line in JSON has exactly the path", async () => {
  await using dir = await folder();
  const path = `${dir.path}/a  b\u3000\u00ad\u2028"\\\x1b`;
  await using command = new ServerProcess(
    ["--unix", path, "--json"],
    runPretending( // to be a Deno before 2.9, which has no such permission
      `const { requestSync } = Deno.permissions;
      Deno.permissions.requestSync = (permission) => {
        if (/^unix:/.test(permission.host)) throw new URIError("invalid");
        return requestSync.call(Deno.permissions, permission);
      };`,
      "--allow-all",
    ),
  );
  const line = await command.line();
  assertMatch(line, /^[\x20-\x7e\u3000]+$/); // one line, and safe to show
  assertEquals(JSON.parse(line).address, path);
});

withUnix("a signal during bind() leaves no file", async () => {
  await using dir = await folder();
  await using command = new ServerProcess(
    ["--unix", `${dir.path}/echo.sock`],
    traced("bind:signal=SIGTERM"),
  );
  assertEquals(await command.code(), 0);
  assertEquals([...Deno.readDirSync(dir.path)], []);
}, ["strace"]);

withUnix("no file is left when a later signal ends it at once", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  await using command = startOn(path, "--mode=serial", "--timeout=0");
  await command.ready();
  using idle = await Deno.connect({ transport: "unix", path });
  await readExactly(idle, GREETING.length);
  await command.killRepeatedly("SIGTERM");
  assertEquals(await command.code(), 143);
  assertEquals([...Deno.readDirSync(dir.path)], []);
});

withUnix("a refusal is one line that names the path", async () => {
  await using dir = await folder();
  const protectedDir = `${dir.path}/protected`;
  await Deno.mkdir(protectedDir, { mode: 0o500 });
  // Root may write anywhere, unless it gives its capabilities up.
  const asUser = `[ "$(id -u)" != 0 ] ||
      exec setpriv --bounding-set=-all --inh-caps=-all "$@"`;
  const cases: [string, string, string[]?][] = [
    [`${dir.path}/none/a`, "no such file or directory"],
    [`${protectedDir}/a`, "permission denied"],
    [
      `${dir.path}/a`,
      `run it with --allow-write=${dir.path}/a`,
      ["--allow-net", "--allow-read"],
    ],
  ];
  for (const [path, why, permissions = ["--allow-all"]] of cases) {
    await using command = new ServerProcess(
      ["--unix", path],
      after(asUser, runMain(...permissions)),
    );
    await command.refuses(`cannot listen on ${path}: ${why}`);
  }
}, ["setpriv"]);

/** The file of a Unix socket to which nobody listens any more. */
function leaveSocket(path: string): void {
  const listener = Deno.listen({ transport: "unix", path: `${path}.moved` });
  Deno.renameSync(`${path}.moved`, path);
  listener.close(); // which would have removed it
}

withUnix("a socket that a killed server left is replaced", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  const start = () =>
    new ServerProcess(["--unix", path], runWith(path, dir.path));
  {
    await using killed = start();
    await killed.ready();
  }
  assert(Deno.lstatSync(path).isSocket);
  await using command = start();
  await command.ready();
  assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
  using locked = await Deno.open(dir.path);
  assert(await locked.tryLock(true)); // it holds the lock no more
  command.kill("SIGTERM");
  assertEquals(await command.code(), 0);
  assertEquals([...Deno.readDirSync(dir.path)], []);
});

withUnix("a socket with a relative path is replaced too", async () => {
  await using dir = await folder();
  leaveSocket(`${dir.path}/a`);
  await using command = new ServerProcess(
    ["--unix", "a"],
    after(
      `cd '${dir.path}'`,
      runMain("--allow-all").with(-1, `${ROOT}/main.ts`),
    ),
  );
  await command.ready();
  assertEquals(await exchangeOn(`${dir.path}/a`, "hoge"), `${GREETING}hoge`);
});

withUnix("a path is replaced only if it is a dead socket", async () => {
  await using dir = await folder();
  const path = (name: string) => `${dir.path}/${name}`;
  leaveSocket(path("dead"));
  await Deno.symlink("dead", path("link to dead"));
  await Deno.symlink("nowhere", path("link to nowhere"));
  await Deno.writeTextFile(path("file"), "hoge");
  await Deno.mkdir(path("folder"));
  using _live = Deno.listen({ transport: "unix", path: path("live") });
  const refused = ["link to dead", "link to nowhere", "file", "folder", "live"];
  const before = [...Deno.readDirSync(dir.path)];
  for (const name of refused) {
    await using command = startOn(path(name));
    const why = name === "live"
      ? "another server listens there"
      : "the path already exists";
    await command.refuses(`cannot listen on ${path(name)}: ${why}`);
  }
  await using unread = new ServerProcess( // it may not lock the folder
    ["--unix", path("dead")],
    runWith(path("dead")),
  );
  await unread.refuses(
    `cannot listen on ${path("dead")}: a killed server left it, and its ` +
      "folder cannot be read or locked",
  );
  assertEquals([...Deno.readDirSync(dir.path)], before);
  assertEquals(await Deno.readTextFile(path("file")), "hoge");
});

withUnix("a lock that somebody holds for a moment is waited for", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  leaveSocket(path);
  using holder = await Deno.open(dir.path);
  await holder.lock(true);
  await using command = startOn(path);
  await delay(200); // a slow machine proves less
  assertEquals(command.stdout.all, []);
  await holder.unlock();
  await command.ready();
});

withUnix("a lock that somebody holds for long is not waited for", async () => {
  await using dir = await folder();
  using holder = await Deno.open(dir.path);
  await holder.lock(true);
  await using command = startOn(`${dir.path}/a`);
  await command.ready();
  const held = await output([
    "find",
    `/proc/${command.pid}/fd`,
    "-lname",
    dir.path,
  ]);
  assertEquals(held, "");
});

withUnix("of six that start at once, one serves", async () => {
  await using dir = await folder();
  const path = `${dir.path}/echo.sock`;
  for (const state of ["no file", "a dead socket"]) {
    await using all = new AsyncDisposableStack(); // it leaves the dead socket
    const commands = numbers(6).map(() => all.use(startOn(path)));
    const codes = await Promise.all(
      commands.map((command) =>
        Promise.race([command.code(), command.stdout.waitFor(1)])
      ),
    );
    const refused = commands.filter((_, i) => codes[i] === 1);
    assertEquals(refused.length, commands.length - 1, state);
    assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
    for (const command of refused) {
      await command.refuses(
        `cannot listen on ${path}: another server listens there`,
      );
    }
  }
});

withUnix(
  "one that is bound but does not listen yet is not replaced",
  async () => {
    await using dir = await folder();
    const path = `${dir.path}/echo.sock`;
    await using slow = new ServerProcess(
      ["--unix", path],
      traced("listen:delay_enter=500000"),
    );
    while ([...Deno.readDirSync(dir.path)].length === 0 && !slow.ended) {
      await turn();
    }
    await using second = startOn(path);
    await second.refuses(
      `cannot listen on ${path}: another server listens there`,
    );
    await slow.ready();
    assertEquals(await exchangeOn(path, "hoge"), `${GREETING}hoge`);
  },
  ["strace"],
);
