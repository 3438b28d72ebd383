/**
 * A daemon for tests of NRI plugins: one for all tests of a file, which has to leave nothing; plugins and
 * sandboxes of a test are gone after it.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import { CriClient } from "./cri.js";
import { TestDaemon } from "./daemon.js";
import type { Snapshot } from "./leaks.js";
import { NriPlugin, type NriPluginOptions, writeCdiSpec } from "./nri-plugin.js";
import { missing, requires } from "./requires.js";

export const REQUEST_TIMEOUT_MS = 2_000;

export interface NriSuite {
  readonly daemon: TestDaemon;
  readonly cri: CriClient;
  /** Of this test alone. */
  readonly folder: string;
  readonly nriSocket: string;
  plugin(options?: NriPluginOptions): Promise<NriPlugin>;
  sandbox(...args: Parameters<CriClient["runSandbox"]>): Promise<string>;
  /** Removed after the test, as those of `sandbox` are. */
  removeLater(sandboxId: string): void;
  /** After the daemon was started again. */
  connectAgain(): void;
}

/** To be called once, at the top of a test file. */
export function nriSuite(): NriSuite {
  const lacking = missing("root", "cgroup2", "overlayfs");
  let daemon: TestDaemon;
  let cri: CriClient;
  let before: Snapshot | undefined;
  let cdiDir: string;
  let folder: string;
  const sandboxes: string[] = [];
  const plugins: NriPlugin[] = [];

  beforeEach(requires("root", "cgroup2", "overlayfs"));
  beforeAll(async () => {
    if (lacking) return;
    cdiDir = mkdtempSync(join(tmpdir(), "minke-nri-cdi-"));
    writeCdiSpec(cdiDir);
    daemon = await TestDaemon.startWithImages({
      tables: `[cdi]\nspec-dirs = ["${cdiDir}"]\n[nri]\nrequest-timeout-ms = ${REQUEST_TIMEOUT_MS}\nregistration-timeout-ms = 3000`,
    });
    cri = new CriClient(daemon.criSocket);
    before = daemon.snapshot();
  });
  // Once for all: the comparison takes longer than most of these tests.
  afterAll(async () => {
    cri?.close();
    if (before) await daemon.expectNothingLeft(before);
    await daemon?.dispose();
    if (cdiDir) rmSync(cdiDir, { recursive: true, force: true });
  });
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "minke-nri-test-"));
  });
  afterEach(async () => {
    for (const plugin of plugins.splice(0)) plugin.close();
    for (const id of sandboxes.splice(0)) await cri.removeSandbox(id);
    rmSync(folder, { recursive: true, force: true });
  });

  const suite: NriSuite = {
    get daemon() {
      return daemon;
    },
    get cri() {
      return cri;
    },
    get folder() {
      return folder;
    },
    get nriSocket() {
      return join(daemon.run, "nri.sock");
    },
    plugin: async (options = {}) => {
      const connected = await NriPlugin.connect(suite.nriSocket, options);
      plugins.push(connected);
      return connected;
    },
    sandbox: async (...args) => {
      const id = await cri.runSandbox(...args);
      sandboxes.push(id);
      return id;
    },
    removeLater: (sandboxId) => void sandboxes.push(sandboxId),
    connectAgain: () => {
      cri.close();
      cri = new CriClient(daemon.criSocket);
    },
  };
  return suite;
}
