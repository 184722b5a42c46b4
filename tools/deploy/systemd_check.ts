/** The systemd units, as they are installed, in a systemd that is booted. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Child, output } from "../testing/child.ts";
import { folder, ROOT } from "../testing/folder.ts";
import { GREETING } from "../testing/bytes.ts";
import { AS_ROOT, needs } from "../testing/needs.ts";
import { turn } from "../testing/timing.ts";
import { createCertificate } from "../testing/transports.ts";

const DROP_INS = "/etc/systemd/system/echo-server@.service.d";
const READY = /^wait\.\.\. listening on /;
const NAME = `echo-server-${Deno.pid}`;

/** A test in a machine that has the binary, with these permissions, and units. */
const withSystemd = (
  name: string,
  permissions: string[],
  units: string,
  fn: (machine: Machine) => Promise<void>,
) =>
  needs(
    ["net", "run", "read", "write", "env", "sys"],
    [AS_ROOT, "systemd-nspawn", "systemctl", "nsenter", "ps", "openssl"],
    `systemd: ${name}`,
    async () => {
      await using dir = await folder();
      await Deno.chmod(dir.path, 0o755);
      await Deno.copyFile(Deno.execPath(), `${dir.path}/deno`);
      await makeBinary(dir.path, permissions);
      await using machine = new Machine(dir.path);
      await machine.boot(units);
      await fn(machine);
    },
  );

/**
 * Makes the binary with these permissions. Where the base runtime cannot be
 * downloaded, a script takes its place: Deno runs the sources.
 */
async function makeBinary(dir: string, permissions: string[]): Promise<void> {
  const flags = ["--v8-flags=--max-semi-space-size=2", "--no-prompt"];
  const binary = `${dir}/echo-server`;
  const compile = ["compile", ...flags, ...permissions, "--output", binary];
  await using compiler = new Child([Deno.execPath(), ...compile, "main.ts"]);
  if (await compiler.code() === 0) return;
  for (const file of ["main.ts", "server.ts", "deno.json", "deno.lock"]) {
    await Deno.copyFile(`${ROOT}/${file}`, `${dir}/${file}`);
  }
  await output([Deno.execPath(), "cache", `${dir}/main.ts`], {
    env: { DENO_DIR: `${dir}/deno-dir` },
  });
  const deno = ["/opt/deno", "run", "--cached-only", ...flags, ...permissions];
  await Deno.writeTextFile(
    binary,
    `#!/bin/sh
export DENO_DIR=/opt/deno-dir DENO_NO_UPDATE_CHECK=1
exec ${deno.join(" ")} /opt/main.ts "$@"
`,
  );
}

/** A systemd over the files of this machine, with a network of its own. */
class Machine extends Child {
  #init = "";

  constructor(dir: string) {
    super([
      // All of it ends with this process.
      ...["setpriv", "--pdeathsig=KILL"],
      ...["unshare", "--pid", "--fork", "--kill-child"],
      ...["systemd-nspawn", "--quiet"],
      ...["--boot", "--directory=/", "--volatile=yes"],
      ...["--register=no", "--keep-unit", "--private-network"],
      ...[`--machine=${NAME}`, "--console=pipe"],
      // The files of this check, the checkout, and a place for the binary.
      ...[`--bind-ro=${dir}:/opt`, `--bind-ro=${ROOT}:/mnt`],
      "--tmpfs=/usr/local/bin:mode=755",
      "systemd.unit=basic.target",
    ]);
  }

  /** Waits until it has booted; installs the binary and these units. */
  async boot(units: string): Promise<void> {
    await this.#booted();
    await this.sh("install -m 755 /opt/echo-server /usr/local/bin/");
    await this.sh(`cd /mnt && ${units}`);
    await this.#limitDescriptors();
    await this.sh("systemctl daemon-reload");
    const verify = "systemd-analyze verify echo-server@1.service 2>&1";
    assertEquals(await this.sh(verify), "");
  }

  async #booted(): Promise<void> {
    const child = async (pid: string | number) =>
      (await output(["ps", "-o", "pid=", "--ppid", `${pid}`])).trim();
    do {
      assert(!this.ended, this.stderr.text);
      await turn();
      // The first child of systemd-nspawn is not yet the init of the machine.
      this.#init = await child(this.pid).then(child).catch(() => "");
    } while (await this.state("basic.target", "ActiveState") !== "active");
  }

  /** Where the machine may not raise limits, the unit must not. */
  async #limitDescriptors(): Promise<void> {
    await this.sh(`ulimit -n 65536 2>/dev/null || {
      mkdir -p ${DROP_INS}
      printf '[Service]\\nLimitNOFILE=%s\\n' "$(ulimit -Hn)" \
        > ${DROP_INS}/limit.conf
    }`);
  }

  /** Runs a command of the shell in the machine; returns what it printed. */
  sh(command: string): Promise<string> {
    const enter = ["--target", this.#init, "--all"];
    return output(["nsenter", ...enter, "sh", "-ec", command]);
  }

  /** A property of a unit; empty if systemd does not answer yet. */
  async state(unit: string, property: string): Promise<string> {
    const show = `systemctl show --value --property=${property} '${unit}'`;
    return (await this.sh(show).catch(() => "")).trim();
  }

  /** Waits until a property of a unit has the value. */
  async until(unit: string, property: string, value: string): Promise<void> {
    while (await this.state(unit, property) !== value) await turn();
  }

  /** Waits for a line of the unit's journal that matches, the `count`th. */
  async journal(unit: string, pattern: RegExp, count = 1): Promise<string> {
    for (;;) {
      const text = await this.sh(`journalctl --output=cat --unit='${unit}'`);
      const lines = text.split("\n").filter((line) => pattern.test(line));
      if (lines.length >= count) return lines[count - 1];
      assert(Number(await this.state(unit, "NRestarts")) < 2, text);
      await turn();
    }
  }

  /** Starts two instances, and waits until they listen. */
  async startTwo(): Promise<void> {
    await this.sh("systemctl enable --now echo-server@1 echo-server@2");
    await this.journal("echo-server@1", READY);
    await this.journal("echo-server@2", READY);
  }

  /** Clients in its network, until they get SIGTERM. */
  load(): Child {
    const generator = "run --allow-net tools/deploy/load_generator.ts 30000";
    return new Child([
      ...["nsenter", "--target", this.#init, "--net"],
      ...[Deno.execPath(), ...generator.split(" ")],
    ]);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    const left = `/run/systemd/nspawn/propagate/${NAME}`;
    await Deno.remove(left).catch(() => {});
  }
}

const INSTALL =
  "install -m 644 'tools/deploy/echo-server@.service' /etc/systemd/system/";
const withDropIn = (file: string) =>
  `${INSTALL}; install -D -m 644 -t ${DROP_INS} tools/deploy/${file}`;

withSystemd(
  "two instances on one port, stopped and killed",
  ["--allow-net"],
  INSTALL,
  async (machine) => {
    // Then the kernel hands waiting clients to the other instance.
    await machine.sh("sysctl --quiet --write net.ipv4.tcp_migrate_req=1");
    await machine.startTwo();
    await machine.sh("systemd-analyze security --threshold=20 echo-server@1");

    await using load = machine.load();
    await load.line(3);
    await machine.sh("systemctl stop echo-server@1");
    assertEquals(await machine.state("echo-server@1", "Result"), "success");
    await load.line(load.stdout.all.length + 3);
    load.kill("SIGTERM");
    await load.code();
    assertMatch(load.stdout.all.at(-1)!, / failed=0$/);

    await machine.journal("echo-server@1", /^\S+Z shutdown signal=SIGTERM /);
    const [, echoed] =
      (await machine.journal("echo-server@1", /^\S+Z summary /))
        .match(/ echoed=(\d+) .* reset=0 shutdown=0 error=0$/) ?? [];
    assert(Number(echoed) > 0, `echoed=${echoed}`);

    await machine.sh("systemctl kill --signal=SIGKILL echo-server@2");
    await machine.until("echo-server@2", "NRestarts", "1");
    await machine.journal("echo-server@2", READY, 2);
    await machine.sh("systemctl stop echo-server@2");
    assertMatch(
      await machine.journal("echo-server@2", /^\S+Z summary /),
      / echoed=0 /,
    );
  },
);

const FILES = ["--allow-net", "--allow-read", "--allow-write"];

withSystemd(
  "Unix sockets, to which every user can connect",
  FILES,
  withDropIn("unix.conf"),
  async (machine) => {
    const nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    const load =
      "/opt/deno run --no-config --allow-all /mnt/tools/deploy/load_generator.ts";
    const exchanges = (instance: number) =>
      machine.sh(`${nobody} env DENO_DIR=/tmp/nobody \
      ${load} /run/echo-server/${instance}/echo.sock 8`);
    await machine.startTwo();
    assertEquals(await exchanges(1), "exchanges=8 failed=0\n");
    assertEquals(await exchanges(2), "exchanges=8 failed=0\n");

    await machine.sh("systemctl kill --signal=SIGKILL echo-server@1");
    await machine.until("echo-server@1", "NRestarts", "1");
    await machine.journal("echo-server@1", READY, 2);
    assertEquals(await exchanges(1), "exchanges=8 failed=0\n");

    await machine.sh("systemctl stop 'echo-server@*'");
    await machine.journal("echo-server@2", / summary echoed=8 .* error=0$/);
    assertEquals(await machine.sh("find /run/echo-server -type s"), "");
  },
);

withSystemd(
  "TLS, with a key that only root can read",
  FILES,
  withDropIn("tls.conf"),
  async (machine) => {
    await machine.sh("mkdir /etc/echo-server");
    const pem = await createCertificate();
    for (const file of ["cert.pem", "key.pem"]) {
      await machine.sh(
        `umask 077; printf '%s' '${pem}' > /etc/echo-server/${file}`,
      );
    }
    await machine.sh("systemctl enable --now echo-server@1");
    await machine.journal(
      "echo-server@1",
      /^wait\.\.\. listening on .* \(TLS\)$/,
    );
    const answer = await machine.sh(
      "echo hoge | openssl s_client -quiet -verify_return_error \
      -CAfile /etc/echo-server/cert.pem -verify_hostname localhost \
      -connect 127.0.0.1:30000",
    );
    assertEquals(answer, `${GREETING}hoge\n`);
  },
);

withSystemd(
  "a wrong option, after which it stays stopped",
  ["--allow-net"],
  INSTALL,
  async (machine) => {
    await machine.sh(`mkdir ${DROP_INS} -p; printf '[Service]\\n%s\\n%s\\n' \
    ExecStart= 'ExecStart=/usr/local/bin/echo-server --prot 30000' \
    > ${DROP_INS}/wrong.conf; systemctl daemon-reload`);
    await machine.sh("systemctl start echo-server@1");
    await machine.until("echo-server@1", "ActiveState", "failed");
    assertEquals(await machine.state("echo-server@1", "ExecMainStatus"), "2");
    assertEquals(await machine.state("echo-server@1", "NRestarts"), "0");
    await machine.journal(
      "echo-server@1",
      /^echo-server: unknown option "--prot"/,
    );
  },
);
