import { describe, expect, test } from "vitest";
import { fromByteString } from "../../../../src/base/byte-strings.js";
import { toContainerConfig } from "../../../../src/cri/convert/container-config.js";
import { toSandboxConfig } from "../../../../src/cri/convert/sandbox-config.js";
import {
  ContainerConfig,
  MountPropagation,
  NamespaceMode,
  PodSandboxConfig,
  SecurityProfile_ProfileType,
  Signal,
  SupplementalGroupsPolicy,
} from "../../../../src/cri/generated/runtime/v1/api.js";

const sandbox = toSandboxConfig(PodSandboxConfig.fromPartial({ metadata: { name: "p" } }), "");
const minimal = { metadata: { name: "c", attempt: 1 }, image: { image: "busybox" } };

function convert(config: Parameters<typeof ContainerConfig.fromPartial>[0], inSandbox = sandbox) {
  return toContainerConfig(ContainerConfig.fromPartial({ ...minimal, ...config }), inSandbox);
}

const security = (context: object) => ({ linux: { securityContext: context } });
const refusal = (code: string, field: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(field) });

test("a minimal config is the image's command, unconfined by seccomp, in the sandbox's namespaces", () => {
  expect(convert({})).toMatchObject({
    owner: "cri",
    metadata: { name: "c", attempt: 1 },
    image: "busybox",
    command: undefined,
    args: undefined,
    workingDir: "",
    env: [],
    mounts: [],
    devices: [],
    pid: undefined,
    user: { user: undefined, gid: undefined, supplementalGroups: [], supplementalGroupsPolicy: "merge" },
    security: { privileged: false, seccomp: undefined, apparmor: undefined, maskedPaths: [], readonlyPaths: [] },
    stopSignal: undefined,
    logMaxBytes: 0,
  });
});

test("environment values are bytes, exact to the last", () => {
  const value = Buffer.from([0x61, 0xff, 0x00, 0xc3, 0xa9, 0x80]);
  const [entry] = convert({ envs: [{ key: "A", value }] }).env;
  expect(fromByteString(entry?.value ?? "")).toEqual(value);
});

test("mounts keep path, access, propagation and id mappings", () => {
  const mapping = { hostId: 1000, containerId: 0, length: 10 };
  const [mount] = convert({
    mounts: [
      {
        containerPath: "/data",
        hostPath: "/srv",
        readonly: true,
        selinuxRelabel: true,
        propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
        uidMappings: [mapping],
        gidMappings: [mapping],
      },
    ],
  }).mounts;
  expect(mount).toEqual({
    containerPath: "/data",
    hostPath: "/srv",
    readonly: true,
    recursiveReadonly: false,
    propagation: "host-to-container",
    uidMappings: [mapping],
    gidMappings: [mapping],
  });
});

test("the security context arrives whole", () => {
  const config = convert({
    ...security({
      capabilities: { addCapabilities: ["NET_ADMIN"], dropCapabilities: ["ALL"], addAmbientCapabilities: ["CHOWN"] },
      runAsUser: { value: 1000n },
      runAsGroup: { value: 2000n },
      supplementalGroups: [3000n],
      supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
      readonlyRootfs: true,
      noNewPrivs: true,
      maskedPaths: ["/proc/kcore"],
      readonlyPaths: ["/proc/sys"],
      seccomp: { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: "/p.json" },
      apparmor: { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: "localhost/web" },
      namespaceOptions: { pid: NamespaceMode.TARGET, targetId: "abc" },
    }),
    stopSignal: Signal.SIGNAL_SIGRTMINPLUS3,
    devices: [{ hostPath: "/dev/fuse", containerPath: "", permissions: "" }],
  });
  expect(config).toMatchObject({
    user: { user: "1000", gid: 2000, supplementalGroups: [3000], supplementalGroupsPolicy: "strict" },
    pid: { target: "abc" },
    stopSignal: "SIGRTMIN+3",
    devices: [{ hostPath: "/dev/fuse", containerPath: "/dev/fuse", permissions: "rwm" }],
    security: {
      readonlyRootfs: true,
      noNewPrivileges: true,
      addCapabilities: ["NET_ADMIN"],
      dropCapabilities: ["ALL"],
      addAmbientCapabilities: ["CHOWN"],
      maskedPaths: ["/proc/kcore"],
      readonlyPaths: ["/proc/sys"],
      seccomp: { type: "localhost", localhostRef: "/p.json" },
      apparmor: { type: "localhost", localhostRef: "web" },
    },
  });
});

test("an empty seccomp profile is RuntimeDefault, and a legacy path is read", () => {
  expect(convert(security({ seccomp: {} })).security.seccomp?.type).toBe("runtime-default");
  expect(convert(security({ seccompProfilePath: "localhost//p.json" })).security.seccomp).toEqual({
    type: "localhost",
    localhostRef: "/p.json",
  });
});

test("resources arrive as numbers, zeros as not specified", () => {
  const { resources } = convert({
    linux: {
      resources: {
        cpuPeriod: 100000n,
        cpuQuota: -1n,
        cpuShares: 0n,
        memoryLimitInBytes: 1n << 40n,
        oomScoreAdj: -500n,
        cpusetCpus: "0-3,7",
        cpusetMems: "0",
        memorySwapLimitInBytes: 1n << 41n,
        hugepageLimits: [{ pageSize: "2MB", limit: 4194304n }],
        unified: { "memory.high": "1" },
      },
    },
  });
  expect(resources).toMatchObject({
    cpuPeriodUs: 100_000,
    cpuQuotaUs: -1,
    cpuShares: undefined,
    memoryLimitBytes: 2 ** 40,
    oomScoreAdj: -500,
    cpusetCpus: "0-3,7",
    cpusetMems: "0",
    memorySwapLimitBytes: 2 ** 41,
    hugepageLimits: [{ pageSize: "2MB", limitBytes: 4_194_304 }],
    unified: { "memory.high": "1" },
  });
});

describe("refused by name", () => {
  const mount = (fields: object) => ({ mounts: [{ containerPath: "/a", hostPath: "/b", ...fields }] });
  test.each([
    ["config.metadata.name", "INVALID_FIELD", { metadata: { name: "" } }],
    ["config.image.image", "INVALID_FIELD", { image: { image: "" } }],
    ["config.windows", "INVALID_FIELD", { windows: {} }],
    ["config.working_dir", "INVALID_FIELD", { workingDir: "tmp" }],
    ["config.command[0]", "INVALID_FIELD", { command: ["a\0b"] }],
    ["config.CDI_devices[0].name", "INVALID_FIELD", { CDIDevices: [{ name: "vendor.example/gpu" }] }],
    ["mounts[0].container_path", "INVALID_FIELD", mount({ containerPath: "a" })],
    ["mounts[0].host_path", "INVALID_FIELD", mount({ image: { image: "x" } })],
    ["mounts[0].readonly", "INVALID_FIELD", mount({ hostPath: "", image: { image: "x" } })],
    [
      "mounts[0].image_sub_path",
      "INVALID_FIELD",
      mount({ hostPath: "", image: { image: "x" }, imageSubPath: "a/../../b" }),
    ],
    ["mounts[0].mount_options", "INVALID_FIELD", mount({ mountOptions: ["rshared"] })],
    ["mounts[0].recursive_read_only", "INVALID_FIELD", mount({ recursiveReadOnly: true })],
    [
      "mounts[0].recursive_read_only",
      "INVALID_FIELD",
      mount({ recursiveReadOnly: true, readonly: true, propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL }),
    ],
    ["mounts[0].uidMappings", "INVALID_FIELD", mount({ uidMappings: [{ length: 1 }] })],
    ["devices[0].permissions", "INVALID_FIELD", { devices: [{ hostPath: "/dev/null", permissions: "x" }] }],
    ["run_as_group", "INVALID_FIELD", security({ runAsGroup: { value: 1n } })],
    ["run_as_username", "INVALID_FIELD", security({ runAsUser: { value: 1n }, runAsUsername: "a" })],
    ["run_as_user", "INVALID_FIELD", security({ runAsUser: { value: 4294967295n } })],
    [
      "seccomp.localhost_ref",
      "INVALID_FIELD",
      security({ seccomp: { profileType: SecurityProfile_ProfileType.Localhost } }),
    ],
    ["selinux_options.type", "INVALID_FIELD", security({ selinuxOptions: { type: "container_t:s0" } })],
    ["selinux_options.level", "INVALID_FIELD", security({ selinuxOptions: { level: "s0\n" } })],
    ["selinux_options.user", "INVALID_FIELD", security({ selinuxOptions: { user: "a".repeat(256) } })],
    ["masked_paths[0]", "INVALID_FIELD", security({ maskedPaths: ["proc"] })],
    ["namespace_options.ipc", "INVALID_FIELD", security({ namespaceOptions: { ipc: NamespaceMode.NODE } })],
    ["namespace_options.target_id", "INVALID_FIELD", security({ namespaceOptions: { pid: NamespaceMode.TARGET } })],
    ["privileged", "PRIVILEGED_NOT_ALLOWED", security({ privileged: true })],
    ["stop_signal", "INVALID_FIELD", { stopSignal: 99 as never }],
    ["cpuset_cpus", "INVALID_FIELD", { linux: { resources: { cpusetCpus: "a" } } }],
    ["oom_score_adj", "INVALID_FIELD", { linux: { resources: { oomScoreAdj: 1001n } } }],
    ["unified", "INVALID_FIELD", { linux: { resources: { unified: { "../memory.max": "1" } } } }],
  ])("%s: %s", (field, code, config) => {
    expect(() => convert(config)).toThrow(refusal(code, field));
  });
});
