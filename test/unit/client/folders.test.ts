import { afterEach, expect, test, vi } from "vitest";
import { rootFolder, runFolder } from "../../../src/client/folders.js";

afterEach(() => vi.unstubAllEnvs());

test("what is given comes before the environment, and that before the machine's own", () => {
  vi.stubEnv("MINKE_ROOT", undefined);
  expect(rootFolder(undefined)).toBe("/var/lib/minke");
  vi.stubEnv("MINKE_ROOT", "/of/environment");
  expect(rootFolder(undefined)).toBe("/of/environment");
  expect(rootFolder("/given/")).toBe("/given");
});

test("an empty folder is INVALID_REQUEST, as it would be the working directory", () => {
  const refused = (what: string) =>
    expect.objectContaining({ kind: "invalid-argument", code: "INVALID_REQUEST", message: `${what}: it is empty` });
  expect(() => rootFolder("")).toThrow(refused("option --root"));
  vi.stubEnv("MINKE_RUN", "");
  expect(() => runFolder(undefined)).toThrow(refused("environment variable MINKE_RUN"));
});
