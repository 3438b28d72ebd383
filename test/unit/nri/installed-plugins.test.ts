/** Plugins of a folder: which are found, which are refused, and how they begin and end. */
import {
  chmodSync,
  existsSync,
  lchownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable } from "node:stream";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newSandboxId } from "../../../src/base/ids.js";
import { toSandboxConfig } from "../../../src/cri/convert/sandbox-config.js";
import { PodSandboxConfig } from "../../../src/cri/generated/runtime/v1/api.js";
import { findInstalled } from "../../../src/nri/installed-plugins.js";
import { Nri } from "../../../src/nri/nri.js";
import type { SandboxRecord } from "../../../src/state/sandbox.js";
import { isAlive } from "../../harness/processes.js";
import { requires } from "../../harness/requires.js";

const PLUGIN = new URL("installed-plugin.mjs", import.meta.url).pathname;

let folder: string;
let dir: string;
let logged: { readonly msg: string; readonly [field: string]: unknown }[];
let nri: Nri;

const log = () =>
  pino(
    new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        logged.push(JSON.parse(chunk.toString()) as (typeof logged)[number]);
        done();
      },
    }),
  );
const messages = () => logged.map(({ msg }) => msg);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "minke-nri-installed-"));
  dir = join(folder, "plugins");
  mkdirSync(dir, { mode: 0o755 });
  logged = [];
  nri = new Nri({
    configDir: folder,
    registrationTimeoutMs: 60_000,
    requestTimeoutMs: 60_000,
    runtimeVersion: "0",
    log: log(),
  });
  nri.attach({ list: async () => ({ sandboxes: [], containers: [] }), update: async () => {}, evict: async () => {} });
});
afterEach(async () => {
  await nri.close();
  rmSync(folder, { recursive: true, force: true });
});

function install(name: string, text = "#!/bin/true\n", mode = 0o755): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

/** Writes to `<folder>/<name>.heard`. */
function installReal(name: string): string {
  install(name, `#!${process.execPath}\nimport(${JSON.stringify(PLUGIN)});\n`);
  const heard = join(folder, `${name}.heard`);
  writeFileSync(join(folder, `${name}.conf`), heard);
  return heard;
}

function sandbox(name: string): SandboxRecord {
  const metadata = { name, uid: name, namespace: "a", attempt: 0 };
  const config = toSandboxConfig(PodSandboxConfig.fromPartial({ metadata }), "");
  return { id: newSandboxId(), bootId: "", config, state: "ready", createdAtNs: "0", cgroupPath: "/a" };
}

describe("of a folder", () => {
  test("plugins are executables with an index, in its order; the rest is ignored, and what looks like one with a word", async () => {
    for (const name of ["20-b", "10-a", "without-index"]) install(name);
    install("30-notes", "", 0o644);
    mkdirSync(join(dir, "40-folder"));
    const found = await findInstalled(dir, log());
    expect(found.map(({ index, name }) => [index, name])).toEqual([
      ["10", "a"],
      ["20", "b"],
    ]);
    expect(logged).toMatchObject([{ path: join(dir, "without-index") }]);
  });

  test("that is not there, there are none, and that is said", async () => {
    expect(await findInstalled(join(folder, "none"), log())).toEqual([]);
    expect(messages()).toEqual(["there is no folder of NRI plugins, starting none"]);
  });
});

describe("NRI_PLUGIN_DIR_UNSAFE is the answer to", () => {
  const cases: readonly [string, () => string | undefined | void][] = [
    ["a folder that others may write to", () => chmodSync(dir, 0o777)],
    ["a folder that its group may write to", () => chmodSync(dir, 0o775)],
    ["a folder below one that others may write to", () => chmodSync(folder, 0o777)],
    [
      "a folder by a symbolic link",
      () => {
        symlinkSync(dir, join(folder, "link"));
        return join(folder, "link");
      },
    ],
    ["a file in place of the folder", () => install("10-a")],
    ["a plugin that others may write to", () => void install("10-a", "", 0o757)],
    ["a plugin by a symbolic link", () => symlinkSync("/bin/true", join(dir, "10-a"))],
  ];
  test.each(cases)("%s", async (_what, make) => {
    const path = make() ?? dir;
    await expect(findInstalled(path, log())).rejects.toMatchObject({
      kind: "failed-precondition",
      code: "NRI_PLUGIN_DIR_UNSAFE",
    });
  });

  describe("what belongs to somebody else:", () => {
    beforeEach(requires("root"));
    test.each([
      ["a folder", () => dir],
      ["a plugin", () => install("10-a")],
    ])("%s", async (_what, path) => {
      lchownSync(path(), 1234, 0);
      await expect(findInstalled(dir, log())).rejects.toMatchObject({ code: "NRI_PLUGIN_DIR_UNSAFE" });
    });
  });
});

describe("an installed plugin", () => {
  test("takes part under its file's name, knows its three variables only, and ends with the daemon", async () => {
    const heard = installReal("10-real");
    await nri.startInstalled(dir);
    expect(nri.plugins).toEqual(["10-real"]);
    await nri.sandboxEvent("RunPodSandbox", sandbox("one"));
    const [first = "", ...rest] = readFileSync(heard, "utf8").trim().split("\n");
    const [pid = "", ...names] = first.split(" ");
    expect(names).toEqual(["NRI_PLUGIN_IDX", "NRI_PLUGIN_NAME", "NRI_PLUGIN_SOCKET"]);
    expect(rest).toEqual(["one"]);
    await nri.close();
    expect(isAlive(Number(pid))).toBe(false);
    expect(messages()).not.toContain("an installed NRI plugin ended, not starting it again");
  });

  test("that dies is left out, with what it said, and not started again", async () => {
    const heard = installReal("10-real");
    await nri.startInstalled(dir);
    await nri.sandboxEvent("RunPodSandbox", sandbox("die"));
    await expect
      .poll(() => logged.find(({ msg }) => msg === "an installed NRI plugin ended, not starting it again"))
      .toMatchObject({ plugin: "10-real", exitCode: 3, said: "told to" });
    expect(nri.plugins).toEqual([]);
    await nri.sandboxEvent("RunPodSandbox", sandbox("one"));
    expect(readFileSync(heard, "utf8").trim().split("\n")).toHaveLength(1);
  });

  test("that ends at once, or cannot be started, keeps no other from taking part", async () => {
    const heard = installReal("20-real");
    install("10-ends", "#!/bin/true\n");
    install("11-none", "#!/no/such/interpreter\n");
    await nri.startInstalled(dir);
    expect(nri.plugins).toEqual(["20-real"]);
    expect(existsSync(heard)).toBe(true);
    expect(messages()).toContain("could not start an installed NRI plugin, going on without it");
  });
});
