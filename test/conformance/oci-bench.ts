/**
 * For tests that run small bundles with minke-oci and with crun, on an engine host: a bundle whose config
 * each test makes, and containers with names that no other run has. Call `useOciBench` once in a file.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { makeRootfs, type SampleSpec, sampleSpec } from "../harness/oci-bundle.js";
import { useEngineHost } from "./engines.js";

export function useOciBench() {
  const host = useEngineHost({ crun: "crun" });
  const bundle = (): string => join(host.folder, "bundle");
  let count = 0;

  beforeAll(() => {
    if (!host.isMade) return;
    chmodSync(host.folder, 0o755);
    mkdirSync(bundle());
  }, 400_000);
  afterAll(async () => {
    if (!host.isMade) return;
    // crun 1.8 leaves the cgroup of a container whose namespace it could not join.
    await host.run("sh", ["-c", `rmdir /sys/fs/cgroup/minke-effects-${process.pid}-* 2>/dev/null || true`]);
  });

  /** The bundle with a rootfs of its own; answers a folder for sources. */
  const configure = (
    command: readonly string[] | string,
    change: (spec: SampleSpec, folder: string) => void,
  ): string => {
    const number = count++;
    const rootfs = join(host.folder, `rootfs-${number}`);
    const folder = join(host.folder, `sources-${number}`);
    makeRootfs(rootfs);
    mkdirSync(folder);
    const spec = sampleSpec(rootfs, command);
    spec.ociVersion = "1.0.2"; // what Debian's crun knows
    change(spec, folder);
    if (spec.linux.namespaces.some(({ type }) => type === "user")) {
      spawnSync("chown", ["-hR", "100000:100000", rootfs]);
    }
    writeFileSync(join(bundle(), "config.json"), JSON.stringify(spec));
    return folder;
  };
  const stateOf = (program: string): string => join(host.folder, program === "crun" ? "crun" : "minke");
  const oci = (program: string, ...args: string[]) => host.run(program, ["--root", stateOf(program), ...args]);
  /** As oci; what a container keeps open is a file, not a pipe that would be waited for. */
  const ociToFile = (program: string, ...args: string[]) => {
    const file = join(host.folder, `output-${count++}`);
    const command = ["sh", "-c", 'exec "$@" >"$0" 2>&1 </dev/null', file, program, "--root", stateOf(program), ...args];
    return host.run("env", command).then(({ code }) => ({ code, output: readFileSync(file, "utf8") }));
  };
  const id = (what: string | number = count++): string => `minke-effects-${process.pid}-${what}`;
  const run = (program: string) => oci(program, "run", "--bundle", bundle(), id());
  return { host, bundle, configure, oci, ociToFile, id, run };
}
