import { describe, expect, test } from "vitest";
import { containerArgs, containerEnv, type ImageDefaults } from "../../../src/spec/process-config.js";

const IMAGE: ImageDefaults = {
  user: "",
  env: ["PATH=/image", "A=image"],
  entrypoint: ["/ep"],
  cmd: ["one", "two"],
  workingDir: "",
};

describe("containerArgs follows the four rows of Kubernetes' table", () => {
  test("neither: the image's entrypoint and cmd", () => {
    expect(containerArgs({}, IMAGE)).toEqual(["/ep", "one", "two"]);
  });
  test("command alone drops the image's cmd", () => {
    expect(containerArgs({ command: ["/x"] }, IMAGE)).toEqual(["/x"]);
  });
  test("args alone keep the entrypoint", () => {
    expect(containerArgs({ args: ["z"] }, IMAGE)).toEqual(["/ep", "z"]);
  });
  test("both replace both", () => {
    expect(containerArgs({ command: ["/x"], args: ["z"] }, IMAGE)).toEqual(["/x", "z"]);
  });
  test("nothing anywhere is invalid-argument NO_COMMAND", () => {
    expect(() => containerArgs({ command: [] }, { ...IMAGE, entrypoint: [], cmd: [] })).toThrow(
      expect.objectContaining({ kind: "invalid-argument", code: "NO_COMMAND" }),
    );
  });
});

describe("containerEnv", () => {
  const env = (requested: { name: string; value: string }[], tty = false) =>
    containerEnv(requested, IMAGE, { home: "/home/me", hostname: "web", tty });
  test("lets the request win over the image and the image over the defaults", () => {
    expect(env([{ name: "A", value: "mine" }])).toEqual(["PATH=/image", "HOSTNAME=web", "A=mine", "HOME=/home/me"]);
  });
  test("sets TERM with a terminal only", () => {
    expect(env([], true)).toContain("TERM=xterm");
    expect(env([]).join()).not.toContain("TERM");
  });
  for (const [what, entry] of [
    ["an empty name", { name: "", value: "x" }],
    ["a name with =", { name: "A=B", value: "x" }],
    ["a value with NUL", { name: "A", value: "x\0y" }],
  ] as const) {
    test(`refuses ${what} as INVALID_ENV`, () => {
      expect(() => env([entry])).toThrow(expect.objectContaining({ kind: "invalid-argument", code: "INVALID_ENV" }));
    });
  }
});
