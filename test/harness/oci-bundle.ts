/**
 * A bundle with a busybox rootfs for tests of an OCI runtime's command line, and a state folder of
 * its own. Knows no runtime but minke-oci, whose `spec` makes the sample that configs start from.
 */
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Linux, LinuxNamespace, Process, Root, Spec } from "../../src/oci/index.js";
import { PROJECT } from "./cli.js";

export const MINKE_OCI = `${PROJECT}build/Release/minke-oci`;

const FOLDERS = ["bin", "proc", "dev", "sys", "etc", "tmp"];
const APPLETS = [
  "sh",
  "cat",
  "cut",
  "echo",
  "grep",
  "id",
  "ls",
  "nproc",
  "readlink",
  "sleep",
  "stat",
  "touch",
  "true",
  "uname",
];

/** A config with what `minke-oci spec` always writes. */
export interface SampleSpec extends Spec {
  root: Root;
  process: Process;
  mounts: NonNullable<Spec["mounts"]>;
  linux: Linux & { namespaces: LinuxNamespace[]; maskedPaths: string[]; readonlyPaths: string[] };
}

export interface CallResult {
  status: number | null;
  /** Standard output and error. */
  output: string;
}

/** A rootfs of busybox at `path`. */
export function makeRootfs(path: string): void {
  for (const name of FOLDERS) mkdirSync(join(path, name), { recursive: true });
  cpSync("/bin/busybox", join(path, "bin/busybox"));
  for (const name of APPLETS) symlinkSync("busybox", join(path, "bin", name));
}

/** What `minke-oci spec` writes, made to run a command without a terminal and without limits. */
export function sampleSpec(rootfs: string, command: readonly string[] | string): SampleSpec {
  const folder = mkdtempSync(join(tmpdir(), "minke-oci-sample-"));
  try {
    const made = spawnSync(MINKE_OCI, ["spec", "--bundle", folder], { encoding: "utf8" });
    if (made.status !== 0) throw new Error(`minke-oci spec: ${made.stderr}`);
    const spec: SampleSpec = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    spec.process.args = typeof command === "string" ? ["sh", "-c", command] : [...command];
    spec.process.terminal = false;
    spec.root = { path: rootfs };
    delete spec.linux.resources;
    return spec;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export class OciBundle {
  readonly folder: string;
  readonly path: string;
  readonly rootfs: string;
  /** The runtime's --root. */
  readonly state: string;
  readonly #name: string;
  #count = 0;
  #sample = "";

  /** @param name part of the folder's name, which is below the system's temporary folder. */
  constructor(name: string) {
    this.#name = name;
    this.folder = mkdtempSync(join(tmpdir(), `minke-oci-${name}-`));
    this.path = join(this.folder, "bundle");
    this.rootfs = join(this.path, "rootfs");
    this.state = join(this.folder, "state");
    mkdirSync(this.path);
  }

  /** A fresh rootfs in place of the one before. */
  fill(): void {
    rmSync(this.rootfs, { recursive: true, force: true });
    makeRootfs(this.rootfs);
  }

  /** @param command arguments, or a line for the shell. */
  configure(command: readonly string[] | string, change: (spec: SampleSpec) => void = () => {}): void {
    this.#sample ||= JSON.stringify(sampleSpec("rootfs", []));
    const spec: SampleSpec = JSON.parse(this.#sample);
    spec.process.args = typeof command === "string" ? ["sh", "-c", command] : [...command];
    change(spec);
    writeFileSync(join(this.path, "config.json"), JSON.stringify(spec));
  }

  /** An id that no other test has. */
  id(what: string | number = this.#count++): string {
    return `minke-${this.#name}-${process.pid}-${what}`;
  }

  /** Output goes to a file: what a container keeps open would hold a pipe. */
  call(program: string, ...args: string[]): CallResult {
    const output = join(this.folder, `output-${this.#count++}`);
    const { status } = spawnSync("sh", ["-c", 'exec "$@" >"$0" 2>&1 </dev/null', output, program, ...args], {
      timeout: 60_000,
    });
    return { status, output: readFileSync(output, "utf8") };
  }

  oci(...args: string[]): CallResult {
    return this.call(MINKE_OCI, "--root", this.state, ...args);
  }

  run(id = this.id()): CallResult {
    return this.oci("run", "--bundle", this.path, id);
  }

  ids(): string[] {
    return existsSync(this.state) ? readdirSync(this.state).filter((name) => !name.startsWith("@")) : [];
  }

  removeContainers(): void {
    for (const id of this.ids()) this.oci("delete", "--force", id);
  }

  dispose(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** The file as another program of the same content. */
  copyOf(program: string, name: string): string {
    const path = join(this.folder, name);
    copyFileSync(program, path);
    return path;
  }
}
