/**
 * Debian's container engines for tests of minke-oci: installed where they can be, and run in a
 * mount namespace of their own with a fresh cgroup2 on /sys/fs/cgroup, as on a host without v1.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach } from "vitest";
import { type CommandResult, PROJECT, runCommand } from "../harness/cli.js";
import { processesNaming } from "../harness/processes.js";
import { missing, requires } from "../harness/requires.js";

export const MINKE_OCI = `${PROJECT}build/Release/minke-oci`;

const CLEANUP_MS = 30_000;

const APPLETS = ["sh", "sleep", "cat", "id", "echo", "true", "touch", "grep"];

/**
 * A host for the tests of a file, and the Debian packages that they need, by program: `{ crun: "crun" }`.
 * Without them the tests are skipped; where REQUIRE is set they fail.
 */
export function useEngineHost(programs: Readonly<Record<string, string>>): EngineHost {
  const host = new EngineHost();
  let lacking: string | undefined;
  beforeAll(async () => {
    if (missing("root", "cgroup2")) return;
    lacking = installPackages({ ...programs, busybox: "busybox-static" });
    if (!lacking) await host.make();
  }, 400_000);
  beforeEach(requires("root", "cgroup2"));
  beforeEach((context) => {
    if (lacking && process.env["REQUIRE"]) throw new Error(`required and missing: ${lacking}`);
    if (lacking) context.skip(`missing: ${lacking}`);
  });
  afterAll(() => host.dispose(), 60_000);
  return host;
}

/** Installs what is missing of these Debian packages, without a question. Answers what still is. */
function installPackages(programs: Readonly<Record<string, string>>): string | undefined {
  const isHere = (program: string) => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
  const lacking = Object.entries(programs).filter(([program]) => !isHere(program));
  if (lacking.length === 0) return undefined;
  const packages = lacking.map(([, name]) => name);
  spawnSync("apt-get", ["install", "-y", "--no-install-recommends", ...packages], {
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    timeout: 300_000,
  });
  const left = lacking.filter(([program]) => !isHere(program)).map(([, name]) => name);
  return left.length === 0 ? undefined : `Debian packages ${left.join(", ")}`;
}

/** A namespace that commands are run in, and a folder with a busybox rootfs. */
export class EngineHost {
  #folder: string | undefined;
  #holder: ChildProcess | undefined;

  /** Whether {@link make} is done. */
  get isMade(): boolean {
    return this.#folder !== undefined;
  }

  get folder(): string {
    if (!this.#folder) throw new Error("the engine host is not made");
    return this.#folder;
  }

  get rootfs(): string {
    return join(this.folder, "rootfs");
  }

  async make(): Promise<void> {
    this.#folder = mkdtempSync(join(tmpdir(), "minke-engine-"));
    const script = "mount -t cgroup2 none /sys/fs/cgroup && exec sleep 3600";
    this.#holder = spawn("unshare", ["-m", "--propagation", "private", "sh", "-c", script], { stdio: "ignore" });
    for (const name of ["bin", "proc", "dev", "sys", "tmp", "etc", "run", "var"]) {
      mkdirSync(join(this.rootfs, name), { recursive: true });
    }
    cpSync("/bin/busybox", join(this.rootfs, "bin/busybox"));
    for (const name of APPLETS) symlinkSync("busybox", join(this.rootfs, "bin", name));
    writeFileSync(join(this.rootfs, "etc/passwd"), "root:x:0:0:root:/:/bin/sh\n");
    await this.#isReady();
  }

  async run(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<CommandResult> {
    const enter = ["-t", String(this.#holder?.pid), "-m", "--", program, ...args];
    return runCommand("nsenter", enter, { env, timeoutMs: 90_000 });
  }

  /** A program that keeps running there, until dispose. */
  start(program: string, args: readonly string[]): ChildProcess {
    return spawn("nsenter", ["-t", String(this.#holder?.pid), "-m", "--", program, ...args], { stdio: "ignore" });
  }

  async #isReady(): Promise<void> {
    for (let i = 0; i < 100; i++) {
      const { code } = await this.run("test", ["-e", "/sys/fs/cgroup/cgroup.procs"]);
      if (code === 0) return;
      await sleep(50);
    }
    throw new Error("the private cgroup2 mount did not appear");
  }

  /**
   * minke-oci behind a script that takes out of a config what this machine cannot give to any
   * runtime: limits of controllers that cgroup2 lacks, and resource limits above the caller's.
   */
  toleratingRuntime(): string {
    const path = join(this.folder, "minke-oci-tolerant");
    const strip =
      "const fs=require('fs'),p=process.argv[1]+'/config.json',c=JSON.parse(fs.readFileSync(p));" +
      "c.linux.resources={devices:c.linux.resources?.devices};delete c.process.rlimits;" +
      "fs.writeFileSync(p,JSON.stringify(c))";
    writeFileSync(
      path,
      `#!/bin/sh
bundle= previous=
for argument in "$@"; do [ "$previous" = --bundle ] && bundle=$argument; previous=$argument; done
case " $* " in *" create "*) ${process.execPath} -e "${strip}" "$bundle" ;; esac
exec ${MINKE_OCI} "$@"
`,
      { mode: 0o755 },
    );
    return path;
  }

  /** Waits for what works on the folder by itself: conmon has podman clean up after the end of each container. */
  async dispose(): Promise<void> {
    if (!this.#folder) return;
    const giveUpAt = Date.now() + CLEANUP_MS;
    for (let left = processesNaming(this.#folder); left.length > 0; left = processesNaming(this.#folder)) {
      if (Date.now() > giveUpAt) throw new Error(`still at work on ${this.#folder}: ${left.join("; ")}`);
      await sleep(50);
    }
    this.#holder?.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = undefined;
  }
}
