/** The host that engines are run in goes without losing a file to a process that still works there. */
import { existsSync } from "node:fs";
import { beforeEach, expect, test } from "vitest";
import { requires } from "../harness/requires.js";
import { EngineHost } from "./engines.js";

beforeEach(requires("root", "cgroup2"));

test("dispose waits for a process that works in the folder by itself", async () => {
  const host = new EngineHost();
  await host.make();
  const { folder } = host;
  const writes = 'i=0; while [ $i -lt 60 ]; do mkdir -p "$1/late"; : >"$1/late/$i"; i=$((i+1)); sleep 0.01; done';
  const worker = host.start("sh", ["-c", writes, "sh", folder]);
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  await host.dispose();
  expect(await ended).toBe(0);
  expect(existsSync(folder)).toBe(false);
});
