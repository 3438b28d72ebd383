/**
 * The set-up of a test file that speaks CRI to a daemon of its own: for each test a folder, and sandboxes that
 * are removed after it; then nothing may be left.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import { type ContainerFields, CriClient } from "./cri.js";
import { TestDaemon, type TestDaemonOptions } from "./daemon.js";
import type { Snapshot } from "./leaks.js";
import { missing, type Requirement, requires } from "./requires.js";
import { SLOWNESS } from "./slowness.js";

const NEEDS: readonly Requirement[] = ["root", "cgroup2", "overlayfs"];

/** Called at the top of a file: sets its hooks. @param needs beside root, cgroup2 and overlayfs */
export function useCriDaemon(options: TestDaemonOptions = {}, ...needs: readonly Requirement[]): CriBench {
  const bench = new CriBench();
  const all = [...NEEDS, ...needs];
  beforeEach(requires(...all));
  beforeAll(async () => {
    if (!missing(...all)) await bench.open(options);
  }, 120_000 * SLOWNESS);
  afterAll(() => bench.close(), 60_000 * SLOWNESS);
  beforeEach(() => bench.beginTest());
  afterEach(() => bench.endTest());
  return bench;
}

class CriBench {
  #before: Snapshot | undefined;
  #sandboxes: string[] = [];
  #shared: string[] = [];
  #empty: Snapshot | undefined;
  #daemon: TestDaemon | undefined;
  #cri: CriClient | undefined;
  #folder: string | undefined;

  get daemon(): TestDaemon {
    return there(this.#daemon, "daemon");
  }

  get cri(): CriClient {
    return there(this.#cri, "client");
  }

  /** Of one test. */
  get folder(): string {
    return there(this.#folder, "folder");
  }

  /** Removed after the test. */
  async sandbox(...args: Parameters<CriClient["runSandbox"]>): Promise<string> {
    const id = await this.cri.runSandbox(...args);
    this.#sandboxes.push(id);
    return id;
  }

  /** Stays until the end of the file, as does what is made in it. */
  async sharedSandbox(...args: Parameters<CriClient["runSandbox"]>): Promise<string> {
    const id = await this.cri.runSandbox(...args);
    this.#shared.push(id);
    return id;
  }

  /** Of busybox, running, in a sandbox of its own. */
  async container(fields: ContainerFields = {}, ...sandbox: Parameters<CriClient["runSandbox"]>): Promise<string> {
    return this.cri.startContainer(await this.sandbox(...sandbox), fields);
  }

  /** The test has removed a sandbox itself, or the daemon is another one. What is there now may stay. */
  forgetSandboxes(): void {
    this.#sandboxes = [];
    this.#before = this.daemon.snapshot();
  }

  async open(options: TestDaemonOptions): Promise<void> {
    this.#daemon = await TestDaemon.startWithImages(options);
    this.#cri = new CriClient(this.#daemon.criSocket);
    this.#empty = this.#daemon.snapshot();
  }

  /** Another client: one that has seen a daemon die may take its time to find the next. */
  reconnect(): void {
    this.#cri?.close();
    this.#cri = new CriClient(this.daemon.criSocket);
  }

  async close(): Promise<void> {
    try {
      if (this.#shared.length > 0) await this.#removeShared();
    } finally {
      this.#cri?.close();
      await this.#daemon?.dispose();
    }
  }

  async #removeShared(): Promise<void> {
    if (!(await this.daemon.isServing())) await this.daemon.start();
    for (const id of this.#shared.splice(0)) await this.cri.removeSandbox(id);
    if (this.#empty) await this.daemon.expectNothingLeft(this.#empty);
  }

  beginTest(): void {
    this.#before = this.daemon.snapshot();
    this.#folder = mkdtempSync(join(tmpdir(), "minke-cri-test-"));
  }

  async endTest(): Promise<void> {
    if (!this.#daemon || this.#folder === undefined) return;
    for (const id of this.#sandboxes.splice(0)) await this.cri.removeSandbox(id);
    rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = undefined;
    // What is made in a shared sandbox stays; that all of it goes is looked at in the end.
    if (this.#before && this.#shared.length === 0) await this.#daemon.expectNothingLeft(this.#before);
  }
}

function there<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`there is no ${what} outside of a test`);
  return value;
}
