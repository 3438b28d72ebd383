import { describe, expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.js";
import type { Spec } from "../../../src/oci/index.js";
import { withCdiEdits } from "../../../src/spec/cdi-edits.js";
import { type CdiEdits, isCdiDeviceName, toCdiSpec } from "../../../src/spec/cdi-spec.js";

const SPEC: Spec = {
  ociVersion: "1.3.0",
  process: { cwd: "/", user: { uid: 7, gid: 0, additionalGids: [1] }, env: ["A=1", "B=2"] },
  linux: { devices: [{ type: "c", path: "/dev/x", major: 1, minor: 1 }] },
};
const NODE = {
  wanted: { path: "/dev/x" },
  device: { type: "c", path: "/dev/host", major: 5, minor: 6, uid: 3, gid: 4 },
} as const;

function refusal(work: () => unknown): unknown {
  try {
    return work();
  } catch (err) {
    return err instanceof RuntimeError ? [err.kind, err.code] : err;
  }
}

describe("withCdiEdits", () => {
  test("replaces variables of the same name and adds others in order", () => {
    const { process } = withCdiEdits(SPEC, [{ env: ["B=3"] }, { env: ["C=4"] }], []);
    expect(process?.env).toEqual(["A=1", "B=3", "C=4"]);
  });

  test("adds groups once, mounts as binds where they have no type, and hooks with a deadline", () => {
    const edit: CdiEdits = {
      additionalGids: [1, 9],
      mounts: [
        { hostPath: "/lib/a", containerPath: "/b", options: ["ro"] },
        { hostPath: "tmpfs", containerPath: "/t", type: "tmpfs" },
      ],
      hooks: [
        { hookName: "createContainer", path: "/bin/h", args: ["h"] },
        { hookName: "createContainer", path: "/bin/i", timeout: 5 },
      ],
    };
    const { process, mounts, hooks } = withCdiEdits(SPEC, [edit], []);
    expect(process?.user?.additionalGids).toEqual([1, 9]);
    expect(mounts).toEqual([
      { destination: "/b", source: "/lib/a", type: "bind", options: ["rbind", "ro"] },
      { destination: "/t", source: "tmpfs", type: "tmpfs", options: [] },
    ]);
    expect(hooks?.createContainer).toMatchObject([
      { path: "/bin/h", timeout: 30 },
      { path: "/bin/i", timeout: 5 },
    ]);
  });

  test("gives a node the container's user unless the edits name one, and the rule that its permissions say", () => {
    const { linux } = withCdiEdits(SPEC, [], [NODE, { ...NODE, wanted: { path: "/dev/y", uid: 0, permissions: "r" } }]);
    expect(linux?.devices).toMatchObject([
      { path: "/dev/x", major: 5, minor: 6, uid: 7, gid: 4 },
      { path: "/dev/y", uid: 0 },
    ]);
    expect(linux?.resources?.devices?.map(({ access }) => access)).toEqual(["rwm", "r"]);
  });

  test.for([
    ["intelRdt", { intelRdt: { closID: "x" } }],
    ["netDevices", { netDevices: [] }],
    ["a poststop hook", { hooks: [{ hookName: "poststop", path: "/bin/h" }] }],
  ] as [string, CdiEdits][])("refuses %s as UNSUPPORTED_FIELD", ([, edit]) => {
    expect(refusal(() => withCdiEdits(SPEC, [edit], []))).toEqual(["failed-precondition", "UNSUPPORTED_FIELD"]);
  });
});

describe("toCdiSpec", () => {
  const file = { cdiVersion: "0.8.0", kind: "vendor.example/gpu", devices: [{ name: "0", containerEdits: {} }] };

  test("reads every released version", () => {
    for (const cdiVersion of ["0.3.0", "0.6.0", "0.8.0", "1.0.0"])
      expect(toCdiSpec({ ...file, cdiVersion }).devices).toHaveLength(1);
  });

  test.for([
    ["an unknown version", { cdiVersion: "9.0.0" }],
    ["a kind without a class", { kind: "vendor.example" }],
    ["no device", { devices: [] }],
    ["two of one name", { devices: [file.devices[0], file.devices[0]] }],
    ["an unknown field", { device: [] }],
    ["a relative node", { devices: [{ name: "0", containerEdits: { deviceNodes: [{ path: "dev/x" }] } }] }],
    ["a variable without a value", { containerEdits: { env: ["X"] } }],
    ["an unknown hook", { containerEdits: { hooks: [{ hookName: "later", path: "/x" }] } }],
  ])("with %s is CDI_SPEC_INVALID", ([, wrong]) => {
    expect(refusal(() => toCdiSpec({ ...file, ...(wrong as object) }))).toEqual([
      "failed-precondition",
      "CDI_SPEC_INVALID",
    ]);
  });
});

test("isCdiDeviceName takes vendor/class=name alone", () => {
  expect(["vendor.example/gpu=0", "v/c=a:1.2-x_y"].every(isCdiDeviceName)).toBe(true);
  expect(
    ["gpu=0", "vendor/gpu", "vendor/gpu=", "/gpu=0", "vendor/gpu=0\n", "1v/gpu=0", "v/c=-x"].some(isCdiDeviceName),
  ).toBe(false);
});
