/** The image, built by buildah and run by runc. */

import { assertEquals, assertMatch } from "@std/assert";
import denoJson from "../../deno.json" with { type: "json" };
import { Child, output } from "../testing/child.ts";
import { folder, readFile } from "../testing/folder.ts";
import { ServerProcess } from "../testing/command.ts";
import { GREETING } from "../testing/bytes.ts";
import { AS_ROOT, needs } from "../testing/needs.ts";
import { delay } from "../testing/timing.ts";
import { readManifest } from "./manifest.ts";

/** The image, in a store of its own: the user's images are left alone. */
class Image implements AsyncDisposable {
  readonly #store: string[];
  /** Its files. */
  rootfs = "";
  // deno-lint-ignore no-explicit-any
  config: any;

  constructor(readonly dir: string) {
    this.#store = ["--root", `${dir}/images`, "--runroot", `${dir}/run`];
  }

  #buildah(...args: string[]): Promise<string> {
    return output(["buildah", ...this.#store, ...args]);
  }

  async build(): Promise<void> {
    const containerfile = readFile("tools/deploy/Containerfile");
    const version = containerfile.match(/^ARG DENO_VERSION=(.*)$/m)![1];
    const base = containerfile.match(/^FROM (.*)$/m)![1]
      .replace("${DENO_VERSION}", version);
    await this.#buildah("pull", "--quiet", base)
      .catch(() => this.#standIn(base, version));
    await this.#buildah(
      ...["build", "--quiet", "--isolation=chroot", "--pull-never"],
      ...["--file", "tools/deploy/Containerfile", "--tag", "echo-server", "."],
    );
    const json = await this.#buildah("inspect", "--type=image", "echo-server");
    this.config = JSON.parse(json).OCIv1.config;
    const container = await this.#buildah("from", "echo-server");
    const path = await this.#buildah("mount", container.trim());
    this.rootfs = path.trim();
  }

  /**
   * Makes an image in place of Deno's, where that cannot be downloaded: Deno,
   * the libraries that it needs, and what this machine has to know to download
   * the dependency.
   */
  async #standIn(name: string, version: string): Promise<void> {
    const files = `${this.dir}/base`;
    await Deno.mkdir(`${files}/bin`, { recursive: true });
    await Deno.copyFile(Deno.execPath(), `${files}/bin/deno`);
    const libraries = await output(["ldd", Deno.execPath()]);
    const certificates = "/etc/ssl/certs/ca-certificates.crt";
    const paths = libraries.match(/\/\S+/g)!.concat(certificates);
    await output(["cp", "--dereference", "--parents", ...paths, files]);
    const env = ["DENO_DIR=/deno-dir/", `DENO_VERSION=${version}`];
    env.push("DENO_USE_CGROUPS=1", "DENO_TLS_CA_STORE=system");
    env.push(`SSL_CERT_FILE=${certificates}`);
    const registry = Deno.env.get("NPM_CONFIG_REGISTRY");
    if (registry) env.push(`NPM_CONFIG_REGISTRY=${registry}`);
    const url = "https://github.com/denoland/deno_docker";
    const labels = ["title=Deno", `url=${url}`, `source=${url}`]
      .map((label) => `org.opencontainers.image.${label}`);
    const lines = ["FROM scratch", `ENV ${env.join(" ")}`, "COPY base /"]
      .concat(`LABEL ${labels.join(" ")}`, 'ENTRYPOINT ["/bin/deno"]');
    await Deno.writeTextFile(`${this.dir}/Standin`, lines.join("\n"));
    await this.#buildah(
      ...["build", "--quiet", "--file", `${this.dir}/Standin`],
      ...["--tag", name, this.dir],
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#buildah("rm", "--all");
  }
}

/** How to run a container, besides its arguments. */
interface How {
  env?: string[];
  terminal?: boolean;
  /** A program that runs the program that follows. */
  under?: string[];
}

/** A container, hardened as Kubernetes and `docker run --read-only` do it. */
class Container implements AsyncDisposable {
  readonly #id: string;
  readonly #state: string;
  readonly server: ServerProcess;

  private constructor(readonly bundle: string, { under = [] }: How) {
    this.#id = `echo-server-${bundle.split("/").pop()}`;
    this.#state = `${bundle}/state`;
    this.server = new ServerProcess([], [
      ...under,
      ...["runc", "--root", this.#state],
      ...["run", "--bundle", bundle, this.#id],
    ]);
  }

  static async run(image: Image, args: string[], how: How = {}) {
    const bundle = await Deno.makeTempDir({ dir: image.dir });
    await output(["runc", "spec", "--bundle", bundle]);
    const spec = JSON.parse(await Deno.readTextFile(`${bundle}/config.json`));
    const { Entrypoint, Env, User, WorkingDir } = image.config;
    const [uid, gid] = User.split(":").map(Number);
    Object.assign(spec.process, {
      args: [...Entrypoint, ...args],
      env: [...Env, ...how.env ?? []],
      user: { uid, gid },
      cwd: WorkingDir,
      terminal: how.terminal === true,
      capabilities: {},
      noNewPrivileges: true,
    });
    spec.root = { path: image.rootfs, readonly: true };
    await Deno.writeTextFile(`${bundle}/config.json`, JSON.stringify(spec));
    return new Container(bundle, how);
  }

  #runc(...args: string[]): Promise<string> {
    return output(["runc", "--root", this.#state, ...args]);
  }

  /** The process, as the machine sees it. */
  async pid(): Promise<string> {
    return `${JSON.parse(await this.#runc("state", this.#id)).pid}`;
  }

  kill(signal: string): Promise<string> {
    return this.#runc("kill", this.#id, signal);
  }

  /** Runs a program in the container's network. */
  async inNetwork(...program: string[]): Promise<string> {
    const enter = ["--target", await this.pid(), "--net"];
    return await output(["nsenter", ...enter, ...program]);
  }

  /** One exchange; returns all that the server sent. */
  async exchange(): Promise<string> {
    const script = "exec 3<>/dev/tcp/127.0.0.1/30000; printf hoge >&3; cat <&3";
    await this.inNetwork("ip", "link", "set", "lo", "up");
    return await this.inNetwork("bash", "-c", script);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill("KILL").catch(() => {}); // it may have ended
    await this.server[Symbol.asyncDispose]();
  }
}

function checkImage({ config, rootfs }: Image): void {
  assertMatch(config.User, /^[1-9]\d*:[1-9]\d*$/);
  assertEquals(config.ExposedPorts, { "30000/tcp": {} });
  const label = (name: string) =>
    config.Labels[`org.opencontainers.image.${name}`];
  assertEquals(label("title"), "echo-server");
  assertEquals(label("version"), denoJson.version);
  assertEquals([label("source"), label("url")], ["", ""]);

  const names = (path: string) =>
    [...Deno.readDirSync(`${rootfs}${path}`)]
      .map(({ name }) => name).sort();
  const files = ["deno.json", "deno.lock", "main.ts", "server.ts"];
  assertEquals(names("/app"), files);
  const [registry, ...others] = names("/deno-dir/npm");
  assertEquals(others, []);
  assertEquals(names(`/deno-dir/npm/${registry}`), ["deno-std"]);
}

/** It runs as Kubernetes runs it, and drains. */
async function checkManifest(image: Image): Promise<void> {
  const [deployment] = await readManifest();
  const [container] = deployment.spec.template.spec.containers;
  const args = container.args.map((arg: string) =>
    arg.replaceAll("$(POD_NAME)", "pod-1")
  );
  const calls = `${image.dir}/calls`;
  await using echo = await Container.run(image, args, {
    env: ["POD_NAME=pod-1"],
    under: ["strace", "-f", "-e", "trace=socket,connect", "-o", calls],
  });
  const { server } = echo;
  assertEquals(await server.ready(), 30000);
  assertEquals(await echo.exchange(), "Hello from pod-1!\r\nhoge");

  const status = await Deno.readTextFile(`/proc/${await echo.pid()}/status`);
  const [uid, gid] = image.config.User.split(":");
  assertMatch(
    status,
    new RegExp(`^Uid:\\s${uid}\\s${uid}\\s${uid}\\s${uid}$`, "m"),
  );
  assertMatch(status, new RegExp(`^Gid:\\s${gid}\\s`, "m"));
  assertMatch(status, /^NSpid:.*\s1$/m);
  const mounts = await Deno.readTextFile(`/proc/${await echo.pid()}/mountinfo`);
  assertMatch(mounts, /^\d+ \d+ \S+ \S+ \/ ro,/m);

  const enter = ["--target", await echo.pid(), "--net", "bash", "-c"];
  const script =
    "exec 3<>/dev/tcp/127.0.0.1/30000; head -n 1 <&3; read line; printf %s $line >&3; cat <&3";
  await using client = new Child(["nsenter", ...enter, script], {
    stdin: "piped",
  });
  await client.shows(/^Hello from pod-1!\r\n$/);
  await echo.kill("TERM");
  await server.event("shutdown signal=SIGTERM clients=1 grace_ms=10000");
  await delay(1500); // half a second after its start, Deno looks for updates
  await client.write("drained\n");
  assertEquals(await client.code(), 0);
  assertEquals(client.stdout.text, "Hello from pod-1!\r\ndrained");
  assertEquals(await server.code(), 0);
  assertMatch(await server.event("summary"), / echoed=2 .* error=0$/);

  const sockets = (await Deno.readTextFile(calls)).match(
    /socket\(AF_INET.*|connect\(.*AF_INET.*/g,
  )!;
  assertEquals(sockets.length, 1, sockets.join("\n"));
  assertMatch(sockets[0], /SOCK_STREAM/);
}

/** Its default arguments, and options instead of them. */
async function checkArguments(image: Image): Promise<void> {
  await using plain = await Container.run(image, image.config.Cmd);
  assertEquals(await plain.server.ready(), 30000);
  assertEquals(await plain.exchange(), `${GREETING}hoge`);
  await plain.kill("INT");
  assertEquals(await plain.server.code(), 0);

  const args = ["--greeting", String.raw`Hi!\n`, "-v"];
  await using other = await Container.run(image, args);
  assertEquals(await other.server.ready(), 30000);
  assertEquals(await other.exchange(), "Hi!\nhoge");
  assertMatch(await other.server.event("exchange"), / outcome=echoed bytes=4 /);
}

/** In a terminal, Deno itself prints nothing. */
async function checkTerminal(image: Image): Promise<void> {
  const inTerminal = 'exec script --quiet --flush --command "$*" /dev/null';
  await using echo = await Container.run(image, image.config.Cmd, {
    terminal: true,
    under: ["sh", "-c", inTerminal, "sh"],
  });
  await echo.server.shows(/listening .*\r/);
  await echo.kill("TERM");
  assertEquals(await echo.server.code(), 0);
  const [ready, ...log] = echo.server.stdout.all;
  assertMatch(ready, /^\W*wait\.\.\. listening on 0\.0\.0\.0:30000\r?$/);
  assertEquals(log.map((line) => line.split(" ")[1]), ["shutdown", "summary"]);
}

needs(
  ["net", "run", "read", "write", "env", "sys"],
  [AS_ROOT, "buildah", "runc", "strace", "nsenter", "ip", "script"],
  "container: the image is built, runs as Kubernetes runs it, and drains",
  async () => {
    await using dir = await folder();
    await using image = new Image(dir.path);
    await image.build();
    checkImage(image);
    await checkManifest(image);
    await checkArguments(image);
    await checkTerminal(image);
  },
);
