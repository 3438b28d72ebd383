import { createRequire } from "node:module";
import { expect, test } from "vitest";
import { Agent } from "../../../src/image/http-agents.js";

test("what the image store uses of undici brings neither its fetch nor its caches", () => {
  const loaded = Object.keys(createRequire(import.meta.url).cache)
    .map((path) => path.split("/node_modules/undici/")[1])
    .filter((path) => path !== undefined);
  expect(Agent).toBeTypeOf("function");
  expect(loaded).toContain("lib/dispatcher/agent.js");
  expect(loaded.filter((path) => /^(index\.js|lib\/(web\/fetch\/index|cache|mock|interceptor)\b)/.test(path))).toEqual(
    [],
  );
});
