/** What confines a container, and its device nodes, as the spec says it: by host and by what was asked. */
import { describe, expect, test } from "vitest";
import { toContainerConfig } from "../../../src/cri/convert/container-config.js";
import { toSandboxConfig } from "../../../src/cri/convert/sandbox-config.js";
import {
  ContainerConfig,
  PodSandboxConfig,
  SecurityProfile_ProfileType as Type,
} from "../../../src/cri/generated/runtime/v1/api.js";
import { type ContainerSpecInput, type HostAbilities, toContainerSpec } from "../../../src/spec/container-spec.js";

const HOST: HostAbilities = {
  capabilities: new Set(["CAP_CHOWN"]),
  controllers: new Set(),
  tolerateMissingControllers: false,
  lowestOomScoreAdj: undefined,
  devices: [],
  hasAppArmor: false,
  hasSeLinux: false,
  hasUserNamespaces: true,
};

function specOf(securityContext: object, host: HostAbilities = HOST, more: Partial<ContainerSpecInput> = {}) {
  const linux = { securityContext: { privileged: true } };
  const config = toSandboxConfig(PodSandboxConfig.fromPartial({ metadata: { name: "p" }, linux }), "");
  const sandbox = {
    config,
    netnsPath: undefined,
    ipcnsPath: undefined,
    utsnsPath: undefined,
    pidnsPath: undefined,
    shmPath: "/shm",
    filesDir: "/files",
    ...more.sandbox,
  };
  const asked = ContainerConfig.fromPartial({
    metadata: { name: "c" },
    image: { image: "i" },
    command: ["true"],
    linux: { securityContext },
  });
  return toContainerSpec({
    config: toContainerConfig(asked, config),
    image: { user: "", env: [], entrypoint: [], cmd: [], workingDir: "" },
    user: { uid: 0, gid: 0, additionalGids: [], home: "/" },
    host,
    cgroupsPath: "/c",
    ...more,
    sandbox,
  });
}

describe("SELinux options", () => {
  const asked = { selinuxOptions: { type: "spc_t", level: "s0:c1,c2" } };

  test("are the process's label and the mounts' where SELinux is on", () => {
    const { spec, warnings } = specOf(asked, { ...HOST, hasSeLinux: true });
    expect(spec.process?.selinuxLabel).toBe("system_u:system_r:spc_t:s0:c1,c2");
    expect(spec.linux?.mountLabel).toBe("system_u:object_r:container_file_t:s0:c1,c2");
    expect(warnings).toEqual([]);
  });

  test("are ignored with a warning where it is off", () => {
    const { spec, warnings } = specOf(asked);
    expect(spec.process).not.toHaveProperty("selinuxLabel");
    expect(spec.linux).not.toHaveProperty("mountLabel");
    expect(warnings).toEqual([expect.stringContaining("SELinux")]);
  });

  test("that say nothing give no label and no warning", () => {
    const { spec, warnings } = specOf({ selinuxOptions: {} }, { ...HOST, hasSeLinux: true });
    expect(spec.process).not.toHaveProperty("selinuxLabel");
    expect(warnings).toEqual([]);
  });
});

describe("a device", () => {
  const devices = [
    {
      device: { path: "/dev/mine", type: "c", major: 1, minor: 5, fileMode: 0o666 },
      hostPath: "/dev/zero",
      access: "rw",
    } as const,
  ];
  const rule = { allow: true, type: "c", major: 1, minor: 5, access: "rw" };

  test("is a node, and a rule", () => {
    const { spec } = specOf({}, HOST, { devices });
    expect(spec.linux?.devices).toMatchObject([{ path: "/dev/mine" }]);
    expect(spec.linux?.resources?.devices).toContainEqual(rule);
  });

  test("in a user namespace is the host's node, by its path there, and a rule", () => {
    const sandbox = { usernsPath: "/proc/1/fd/9" } as ContainerSpecInput["sandbox"];
    const { spec } = specOf({}, HOST, { devices, sandbox });
    expect(spec.linux).not.toHaveProperty("devices");
    expect(spec.mounts).toContainEqual({
      destination: "/dev/mine",
      type: "bind",
      source: "/dev/zero",
      options: ["bind", "rprivate", "nosuid", "noexec"],
    });
    expect(spec.linux?.resources?.devices).toContainEqual(rule);
  });
});

const apparmor = (profileType: Type, localhostRef = "") => ({ apparmor: { profileType, localhostRef } });

describe("the AppArmor profile", () => {
  const ON = { ...HOST, hasAppArmor: true };
  const LOADED = { defaultAppArmor: { profile: "minke-default" } };
  const NOT_LOADED = { defaultAppArmor: { why: "apparmor_parser is not installed" } };

  test.each([
    ["RuntimeDefault", apparmor(Type.RuntimeDefault), "minke-default"],
    ["nothing said", {}, "minke-default"],
    ["Unconfined", apparmor(Type.Unconfined), undefined],
    ["Localhost", apparmor(Type.Localhost, "mine"), "mine"],
    ["privileged", { privileged: true }, undefined],
  ])("with %s", (_, asked, profile) => {
    const { spec, warnings } = specOf(asked, ON, LOADED);
    expect(spec.process?.apparmorProfile).toBe(profile);
    expect(warnings).toEqual([]);
  });

  test("of RuntimeDefault is none where AppArmor is off, and that is no warning", () => {
    const { spec, warnings } = specOf(apparmor(Type.RuntimeDefault));
    expect(spec.process).not.toHaveProperty("apparmorProfile");
    expect(warnings).toEqual([]);
  });

  test.each([
    ["RuntimeDefault", apparmor(Type.RuntimeDefault), [expect.stringContaining("apparmor_parser is not installed")]],
    ["nothing said", {}, []],
  ])("that could not be loaded is none, with a warning where it was asked for: %s", (_, asked, expected) => {
    const { spec, warnings } = specOf(asked, ON, NOT_LOADED);
    expect(spec.process).not.toHaveProperty("apparmorProfile");
    expect(warnings).toEqual(expected);
  });

  test("by name is refused where AppArmor is off, and taken where only the default one is missing", () => {
    expect(() => specOf(apparmor(Type.Localhost, "mine"))).toThrow(
      expect.objectContaining({ kind: "failed-precondition", code: "APPARMOR_MISSING" }),
    );
    expect(specOf(apparmor(Type.Localhost, "mine"), ON, NOT_LOADED).spec.process?.apparmorProfile).toBe("mine");
  });
});
