/** CNI configurations: what is taken, and how a wrong one is refused. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { RuntimeError } from "../../../../src/base/errors.js";
import { createLog } from "../../../../src/base/log.js";
import { configFiles, isAtLeast, parseConfig } from "../../../../src/network/cni/config.js";
import { ConfigSource } from "../../../../src/network/cni/config-source.js";

const list = (fields: object): string =>
  JSON.stringify({ cniVersion: "1.0.0", name: "net", plugins: [{ type: "bridge" }], ...fields });

function refusal(text: string, file = "x.conflist"): RuntimeError {
  try {
    parseConfig(text, file);
  } catch (err) {
    return err as RuntimeError;
  }
  throw new Error("was accepted");
}

describe("parseConfig", () => {
  test("keeps a plugin's own keys as they were written", () => {
    const plugin = { type: "bridge", ipam: { type: "host-local" }, capabilities: { ips: true } };
    expect(parseConfig(list({ plugins: [plugin], disableCheck: true }), "/x/10.conflist")).toEqual({
      file: "/x/10.conflist",
      name: "net",
      version: "1.0.0",
      disableCheck: true,
      disableGc: false,
      plugins: [plugin],
    });
  });

  test("a file of one plugin is a chain of one", () => {
    const text = JSON.stringify({ cniVersion: "0.3.1", name: "one", type: "ptp" });
    expect(parseConfig(text, "10.conf")).toMatchObject({ name: "one", version: "0.3.1", plugins: [{ type: "ptp" }] });
  });

  test("the latest version that both sides speak is chosen of cniVersions", () => {
    expect(parseConfig(list({ cniVersions: ["0.4.0", "1.1.0", "9.0.0"] }), "x.conflist").version).toBe("1.1.0");
    expect(isAtLeast("0.4.0", "1.0.0")).toBe(false);
    expect(isAtLeast("1.1.0", "1.1.0")).toBe(true);
  });

  test.each([
    ["no JSON", "{", "not JSON"],
    ["a list", "[]", "not a JSON object"],
    ["a version of the future alone", list({ cniVersion: "2.0.0" }), '"cniVersion" is "2.0.0"'],
    ["no version", list({ cniVersion: undefined }), '"cniVersion" is missing'],
    ["a name with a slash", list({ name: "../x" }), '"name" is "../x"'],
    ["no plugins", list({ plugins: [] }), '"plugins" is empty'],
    ["plugins that are none", list({ plugins: "bridge" }), '"plugins" is no list'],
    ["a plugin that leads elsewhere", list({ plugins: [{ type: "../../bin/sh" }] }), '"plugins[0].type"'],
    ["capabilities that are none", list({ plugins: [{ type: "x", capabilities: [] }] }), '"plugins[0].capabilities"'],
  ])("%s is failed-precondition CNI_CONFIG_INVALID, naming the file", (_, text, what) => {
    const err = refusal(text, "/etc/cni/net.d/10.conflist");
    expect(err).toMatchObject({ kind: "failed-precondition", code: "CNI_CONFIG_INVALID" });
    expect(err.message).toContain('"/etc/cni/net.d/10.conflist"');
    expect(err.message).toContain(what);
  });

  test("text that is no JSON is told in one line", () => {
    expect(refusal("nonsense\nand more\n", "x.conflist").message).not.toMatch(/\p{Cc}/u);
  });
});

describe("ConfigSource", () => {
  const withFolder = async (work: (dir: string) => Promise<void>) => {
    const folder = mkdtempSync(join(tmpdir(), "minke-net-cni-"));
    try {
      await work(join(folder, "net.d"));
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
  const sourceOf = (dir: string, skipsPodman = true) =>
    new ConfigSource({ dir, file: undefined, skipsPodman, log: createLog("silent") });

  test("takes the first usable file by name, and leaves podman's own network out", () =>
    withFolder(async (dir) => {
      mkdirSync(dir);
      writeFileSync(join(dir, "00-broken.conflist"), "{");
      writeFileSync(join(dir, "05-podman.conflist"), list({ name: "podman" }));
      writeFileSync(join(dir, "20-b.conflist"), list({ name: "b" }));
      writeFileSync(join(dir, "100-a.conf"), JSON.stringify({ cniVersion: "1.0.0", name: "a", type: "ptp" }));
      writeFileSync(join(dir, "00-read.me"), "");
      expect((await configFiles(dir)).map((file) => file.slice(dir.length + 1))).toEqual([
        "00-broken.conflist",
        "05-podman.conflist",
        "100-a.conf",
        "20-b.conflist",
      ]);
      const source = sourceOf(dir);
      expect((await source.current()).config?.name).toBe("a");
      source.close();
      const all = sourceOf(dir, false);
      expect((await all.current()).config?.name).toBe("podman");
      all.close();
    }));

  test("sees a directory and a file come, change and go", () =>
    withFolder(async (dir) => {
      const source = sourceOf(dir);
      const name = async () => (await source.current()).config?.name;
      expect(await name()).toBeUndefined();
      mkdirSync(dir);
      writeFileSync(join(dir, "10.conflist"), list({ name: "first" }));
      await expect.poll(name).toBe("first");
      writeFileSync(join(dir, "10.conflist"), list({ name: "second" }));
      await expect.poll(name).toBe("second");
      rmSync(dir, { recursive: true });
      await expect.poll(name).toBeUndefined();
      source.close();
    }));

  test("answers without asking the disk while nothing changes", () =>
    withFolder(async (dir) => {
      const source = sourceOf(dir);
      await source.current();
      expect(source.current()).not.toBeInstanceOf(Promise);
      source.close();
    }));

  test("a directory of files that cannot be used is a problem, not nothing", () =>
    withFolder(async (dir) => {
      mkdirSync(dir);
      writeFileSync(join(dir, "10.conflist"), "{");
      const source = sourceOf(dir);
      expect(await source.current()).toMatchObject({ config: undefined, problem: { code: "CNI_CONFIG_INVALID" } });
      source.close();
    }));
});
