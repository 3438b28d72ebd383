import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "../../src/client/node-flags.js";

/** 64 MB in pieces that malloc(3) keeps when they are freed, since the last one is above them. */
const PROGRAM = `
const { giveBackMemory } = require(process.argv[1]);
const last = (() => Array.from({ length: 4096 }, () => Buffer.allocUnsafeSlow(16384).fill(1)).at(-1))();
gc();
const before = process.memoryUsage.rss();
giveBackMemory();
console.log((before - process.memoryUsage.rss()) / 1048576, last.length);
`;

test("giveBackMemory returns to the kernel what has been freed", () => {
  const addon = fileURLToPath(new URL("../../build/Release/minke.node", import.meta.url));
  const { stdout, stderr } = spawnSync(process.execPath, [...DAEMON_NODE_FLAGS, "-e", PROGRAM, addon], {
    encoding: "utf8",
    env: { ...process.env, ...DAEMON_ENV },
  });
  expect(stderr).toBe("");
  expect(parseFloat(stdout)).toBeGreaterThan(32);
});
