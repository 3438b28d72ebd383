/** What adjustments make of a spec, and which of them exclude each other. */
import { describe, expect, test } from "vitest";
import { applyAdjustment } from "../../../src/nri/adjust.js";
import { mergeAdjustments } from "../../../src/nri/convert.js";
import type { Draft } from "../../../src/nri/draft.js";
import { ContainerAdjustment, ContainerUpdate } from "../../../src/nri/generated/nri/v1alpha1/nri.js";
import { Owners } from "../../../src/nri/owners.js";
import { synchronizeRequests } from "../../../src/nri/synchronize-requests.js";
import { Updates } from "../../../src/nri/updates.js";
import { PodSandbox } from "../../../src/nri/generated/nri/v1alpha1/nri.js";

type Part = Parameters<typeof ContainerAdjustment.fromPartial>[0];

function draft(): Draft {
  return {
    spec: {
      ociVersion: "1.3.0",
      process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["sh"], env: ["A=1", "B=2"] },
      mounts: [
        { destination: "/proc", type: "proc" },
        { destination: "/etc/hosts", type: "bind", source: "/h" },
      ],
      linux: {
        namespaces: [{ type: "mount" }, { type: "ipc", path: "/proc/1/ns/ipc" }],
        rootfsPropagation: "rprivate",
      },
    },
    resources: { cpuShares: 100, unified: { "memory.high": "1" } },
    cgroupPath: "/minke/pods/p/c",
    cdiDevices: [],
    warnings: [],
  };
}

function adjusted(part: Part, owners = new Owners(), plugin = "10-a", target = draft()): Draft {
  applyAdjustment(target, ContainerAdjustment.fromPartial(part), { owners, containerId: "c", plugin });
  return target;
}

describe("applyAdjustment", () => {
  test("replaces a variable in its place, removes one, and adds one at the end", () => {
    const { spec } = adjusted({ env: [{ key: "A", value: "9" }, { key: "-B" }, { key: "C", value: "=" }] });
    expect(spec.process?.env).toEqual(["A=9", "C=="]);
  });

  test("puts a mount before those below it, and lets events of a shared one through", () => {
    const { spec } = adjusted({ mounts: [{ destination: "/etc", type: "bind", source: "/e", options: ["rshared"] }] });
    expect(spec.mounts?.map(({ destination }) => destination)).toEqual(["/proc", "/etc", "/etc/hosts"]);
    expect(spec.mounts?.[1]?.options).toEqual(["rbind", "rshared"]);
    expect(spec.linux?.rootfsPropagation).toBe("rshared");
  });

  test("replaces and removes namespaces by their type", () => {
    const { spec } = adjusted({ linux: { namespaces: [{ type: "-ipc" }, { type: "network", path: "/n" }] } });
    expect(spec.linux?.namespaces).toEqual([{ type: "mount" }, { type: "network", path: "/n" }]);
  });

  test("keeps the resources that a plugin does not name, and warns of those of cgroup v1", () => {
    const resources = { memory: { reservation: { value: 5n }, swappiness: { value: 1n } }, pids: { limit: 7n } };
    const { resources: result, warnings } = adjusted({ linux: { resources } });
    expect(result).toEqual({ cpuShares: 100, pidsLimit: 7, unified: { "memory.high": "1", "memory.low": "5" } });
    expect(warnings).toEqual(['NRI plugin "10-a": memory.swappiness is of cgroup v1: not in force']);
  });

  test.each<[string, Part]>([
    ["Annotations", { annotations: { k: "v" } }],
    ["Mounts", { mounts: [{ destination: "/m" }] }],
    ["Args", { args: ["x"] }],
    ["Rlimits", { rlimits: [{ type: "RLIMIT_CORE" }] }],
    ["CdiDevices", { CDIDevices: [{ name: "v/c=d" }] }],
    ["Devices", { linux: { devices: [{ path: "/dev/d", type: "c" }] } }],
    ["MemLimit", { linux: { resources: { memory: { limit: { value: 1n } } } } }],
    ["CPUSetCPUs", { linux: { resources: { cpu: { cpus: "0" } } } }],
    ["HugepageLimits", { linux: { resources: { hugepageLimits: [{ pageSize: "2MB", limit: 1n }] } } }],
    ["CgroupsUnified", { linux: { resources: { unified: { "io.max": "" } } } }],
    ["CgroupsPath", { linux: { cgroupsPath: "/a" } }],
    ["OomScoreAdj", { linux: { oomScoreAdj: { value: 1n } } }],
    ["IoPriority", { linux: { ioPriority: { class: 1 } } }],
    ["SeccompPolicy", { linux: { seccompPolicy: { defaultAction: "SCMP_ACT_ALLOW" } } }],
    ["Namespace", { linux: { namespaces: [{ type: "uts" }] } }],
    ["Sysctl", { linux: { sysctl: { "net.a": "1" } } }],
    ["LinuxNetDevices", { linux: { netDevices: { eth1: { name: "" } } } }],
    ["LinuxSched", { linux: { scheduler: { policy: 4 } } }],
    ["RdtClosID", { linux: { rdt: { closId: { value: "x" } } } }],
    ["MemoryPolicy", { linux: { memoryPolicy: { mode: 2, nodes: "0" } } }],
  ])("refuses the second plugin that sets %s", (field, part) => {
    const owners = new Owners();
    const target = adjusted(part, owners, "10-a");
    expect(() => adjusted(part, owners, "20-b", target)).toThrowError(
      expect.objectContaining({ code: "NRI_CONFLICT", message: expect.stringContaining(`both set ${field}`) }),
    );
  });

  test("adds the hooks of all plugins, and each of them owns the field", () => {
    const owners = new Owners();
    const hooks = { hooks: { poststart: [{ path: "/h", timeout: { value: 3n } }] } };
    const { spec } = adjusted(hooks, owners, "20-b", adjusted(hooks, owners, "10-a"));
    expect(spec.hooks?.poststart).toEqual([
      { path: "/h", timeout: 3 },
      { path: "/h", timeout: 3 },
    ]);
    expect(owners.toMessage().owners["c"]?.simple[3]).toBe("10-a,20-b");
  });

  test.each<[string, Part]>([
    ["a cgroup that leads up", { linux: { cgroupsPath: "/a/../.." } }],
    ["the root cgroup", { linux: { cgroupsPath: "/" } }],
    ["a relative mount", { mounts: [{ destination: "etc" }] }],
    ["a variable with NUL", { env: [{ key: "A", value: "\0" }] }],
    ["a device of no type", { linux: { devices: [{ path: "/dev/x", type: "z" }] } }],
    ["a scheduling policy that is none", { linux: { scheduler: { policy: 99 as 1 } } }],
  ])("refuses %s", (_what, part) => {
    expect(() => adjusted(part)).toThrowError(expect.objectContaining({ code: "NRI_ADJUSTMENT_INVALID" }));
  });
});

test("mergeAdjustments keeps what the later plugin neither sets nor removes", () => {
  const first = ContainerAdjustment.fromPartial({
    env: [
      { key: "A", value: "1" },
      { key: "B", value: "1" },
    ],
    linux: { resources: { cpu: { shares: { value: 1n }, cpus: "0" } } },
  });
  const second = ContainerAdjustment.fromPartial({
    env: [{ key: "-A" }],
    linux: { resources: { memory: { limit: { value: 2n } } } },
  });
  const { env, linux } = mergeAdjustments(first, second);
  expect(env.map(({ key }) => key)).toEqual(["B", "-A"]);
  expect(linux?.resources?.cpu).toMatchObject({ shares: { value: 1n }, cpus: "0" });
  expect(linux?.resources?.memory?.limit).toEqual({ value: 2n });
});

describe("Updates", () => {
  const shares = (ignoreFailure: boolean) => [
    ContainerUpdate.fromPartial({
      containerId: "x",
      ignoreFailure,
      linux: { resources: { cpu: { shares: { value: 5n } } } },
    }),
  ];

  test("drop a wish that conflicts, and refuse a demand", () => {
    const updates = new Updates(new Owners());
    updates.collect("10-a", shares(false));
    updates.collect("20-b", shares(true));
    expect(() => updates.collect("30-c", shares(false))).toThrowError(
      expect.objectContaining({ code: "NRI_CONFLICT" }),
    );
    expect(updates.all).toEqual([{ containerId: "x", changes: { cpuShares: 5 }, ignoreFailure: false }]);
  });

  test("of the container that is being made are refused", () => {
    const updates = new Updates(new Owners(), "x");
    expect(() => updates.collect("10-a", shares(false))).toThrowError(
      expect.objectContaining({ code: "NRI_ADJUSTMENT_INVALID" }),
    );
  });
});

test("synchronizeRequests says in each message but the last that there is more", () => {
  const pod = PodSandbox.fromPartial({ id: "p", annotations: { large: "x".repeat(1_500_000) } });
  const requests = synchronizeRequests([pod, pod, pod], []);
  expect(requests.map(({ pods, more }) => [pods.length, more])).toEqual([
    [1, true],
    [1, true],
    [1, false],
  ]);
  expect(synchronizeRequests([], [])).toEqual([{ pods: [], containers: [], more: false }]);
});
