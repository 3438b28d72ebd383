import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { DAEMON_NODE_FLAGS } from "../../../src/client/node-flags.js";

test("the command's first line starts Node.js with the daemon's flags", () => {
  const [line] = readFileSync(new URL("../../../src/cli/main.ts", import.meta.url), "utf8").split("\n");
  expect(line).toBe(`#!/usr/bin/env -S node ${DAEMON_NODE_FLAGS.join(" ")}`);
});
