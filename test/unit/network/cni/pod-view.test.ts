/** What CNI plugins are told of a pod, and what their result says to it. */
import { describe, expect, test } from "vitest";
import type { SandboxId } from "../../../../src/base/ids.js";
import {
  capabilityArguments,
  cniArgs,
  pluginArguments,
  unusedArguments,
} from "../../../../src/network/cni/arguments.js";
import { resultProblem, toSandboxNetwork } from "../../../../src/network/cni/result.js";
import type { SandboxConfig } from "../../../../src/state/sandbox.js";

const ID = "a".repeat(64) as SandboxId;

function configOf(fields: Partial<SandboxConfig>): SandboxConfig {
  return {
    owner: "cri",
    metadata: { name: "web", uid: "u-1", namespace: "default", attempt: 0 },
    hostname: "web",
    logDirectory: "",
    hostAliases: [],
    portMappings: [],
    labels: {},
    annotations: {},
    namespaces: { network: "pod", pid: "pod", ipc: "pod" },
    sysctls: {},
    shmSizeBytes: 0,
    cgroupParent: "",
    runtimeHandler: "",
    ...fields,
  };
}

describe("arguments", () => {
  test("CNI_ARGS are those of a kubelet's runtimes", () => {
    expect(cniArgs(ID, configOf({}))).toBe(
      `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=${ID};K8S_POD_UID=u-1`,
    );
  });

  test("a name that would end its argument is invalid-argument CNI_ARGUMENT_INVALID", () => {
    const config = configOf({ metadata: { name: "x;K8S_POD_NAME=other", uid: "u", namespace: "d", attempt: 0 } });
    expect(() => cniArgs(ID, config)).toThrow(
      expect.objectContaining({ kind: "invalid-argument", code: "CNI_ARGUMENT_INVALID" }),
    );
  });

  test("a plugin gets the capabilities that it declares, and no others", () => {
    const known = capabilityArguments(
      configOf({
        portMappings: [
          { protocol: "udp", containerPort: 53, hostPort: 5353, hostIp: "127.0.0.1" },
          { protocol: "tcp", containerPort: 80, hostPort: 0, hostIp: "" },
        ],
        dns: { servers: ["10.0.0.10"], searches: ["svc"], options: ["ndots:5"] },
        annotations: {
          "kubernetes.io/ingress-bandwidth": "10M",
          "kubernetes.io/egress-bandwidth": "1Ki",
          "cni.minke/ips": "10.1.2.3/24, fd00::3/64",
          "cni.minke/mac": "02:00:00:00:00:01",
        },
      }),
    );
    const all = { portMappings: true, dns: true, bandwidth: true, ips: true, mac: true, other: true };
    expect(pluginArguments({ type: "x", capabilities: all }, known)).toEqual({
      portMappings: [{ hostPort: 5353, containerPort: 53, protocol: "udp", hostIP: "127.0.0.1" }],
      dns: { servers: ["10.0.0.10"], searches: ["svc"], options: ["ndots:5"] },
      bandwidth: {
        ingressRate: 10_000_000,
        ingressBurst: 2_147_483_647,
        egressRate: 1024,
        egressBurst: 2_147_483_647,
      },
      ips: ["10.1.2.3/24", "fd00::3/64"],
      mac: "02:00:00:00:00:01",
    });
    expect(pluginArguments({ type: "x", capabilities: { mac: false } }, known)).toBeUndefined();
    expect(unusedArguments([{ type: "x", capabilities: { mac: true, ips: true } }], known)).toEqual([
      "portMappings",
      "bandwidth",
    ]);
  });

  test.each([
    ["kubernetes.io/ingress-bandwidth", "fast"],
    ["kubernetes.io/ingress-bandwidth", "999"],
    ["kubernetes.io/egress-bandwidth", "2P"],
    ["cni.minke/ips", "10.1.2.3/33"],
    ["cni.minke/ips", ""],
    ["cni.minke/mac", "02:00"],
  ])('annotation %s "%s" is invalid-argument CNI_ARGUMENT_INVALID', (name, value) => {
    expect(() => capabilityArguments(configOf({ annotations: { [name]: value } }))).toThrow(
      expect.objectContaining({ kind: "invalid-argument", code: "CNI_ARGUMENT_INVALID" }),
    );
  });
});

describe("results", () => {
  test("the pod's addresses are those of its own interface", () => {
    const result = {
      interfaces: [{ name: "cni0" }, { name: "eth0", sandbox: "/run/netns/x" }, { name: "net1", sandbox: "/x" }],
      ips: [
        { address: "10.1.0.5/16", interface: 1, gateway: "10.1.0.1" },
        { address: "fd00::5/64", interface: 1 },
        { address: "192.168.0.5/24", interface: 2 },
        { address: "10.1.0.1/16", interface: 0 },
      ],
      routes: [{ dst: "0.0.0.0/0", gw: "10.1.0.1" }, { dst: "10.96.0.0/12" }],
      dns: { nameservers: ["10.96.0.10"], domain: "cluster.local", options: ["ndots:5"] },
    };
    expect(resultProblem(result)).toBeUndefined();
    expect(toSandboxNetwork(result, "eth0")).toEqual({
      interface: "eth0",
      ips: ["10.1.0.5", "fd00::5"],
      routes: [{ destination: "0.0.0.0/0", gateway: "10.1.0.1" }, { destination: "10.96.0.0/12" }],
      dns: { servers: ["10.96.0.10"], searches: ["cluster.local"], options: ["ndots:5"] },
    });
  });

  test("an address without an interface is the pod's", () => {
    expect(toSandboxNetwork({ ips: [{ version: "4", address: "10.1.0.5/16" }], dns: {} }, "eth0")).toEqual({
      interface: "eth0",
      ips: ["10.1.0.5"],
    });
  });

  test.each([
    [{ ips: "10.1.0.5/16" }, '"ips" is not a list'],
    [{ ips: [{ address: "ten" }] }, '"ten"'],
    [{ ips: [{}] }, "no address"],
    [{ interfaces: [1] }, '"interfaces"'],
    [{ dns: [] }, '"dns"'],
  ])("%j is none", (result, what) => {
    expect(resultProblem(result)).toContain(what);
  });

  test("null is how Go writes an empty list", () => {
    expect(resultProblem({ ips: null, routes: null, interfaces: null, dns: null })).toBeUndefined();
  });
});
