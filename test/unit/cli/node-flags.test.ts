import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { DAEMON_ENV, DAEMON_NODE_FLAGS } from "../../../src/client/node-flags.js";

test("the command's first line starts Node.js with the daemon's flags and environment", () => {
  const [line] = readFileSync(new URL("../../../src/cli/main.ts", import.meta.url), "utf8").split("\n");
  const variables = Object.entries(DAEMON_ENV).map(([name, value]) => `${name}=${value}`);
  expect(line).toBe(["#!/usr/bin/env -S", ...variables, "node", ...DAEMON_NODE_FLAGS].join(" "));
});
