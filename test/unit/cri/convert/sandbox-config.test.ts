import { describe, expect, test } from "vitest";
import { toSandboxConfig } from "../../../../src/cri/convert/sandbox-config.js";
import { NamespaceMode, PodSandboxConfig, Protocol } from "../../../../src/cri/generated/runtime/v1/api.js";

const minimal = { metadata: { name: "web", uid: "u", namespace: "default", attempt: 2 } };

function convert(config: Parameters<typeof PodSandboxConfig.fromPartial>[0]) {
  return toSandboxConfig(PodSandboxConfig.fromPartial({ ...minimal, ...config }), "");
}

const security = (context: object) => ({ linux: { securityContext: context } });
const namespaces = (options: object) => security({ namespaceOptions: options });
const refusal = (code: string, field: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(field) });

test("a minimal config has CRI's defaults: every namespace is the pod's, nothing is privileged", () => {
  expect(convert({})).toEqual({
    owner: "cri",
    metadata: { name: "web", uid: "u", namespace: "default", attempt: 2 },
    hostname: "",
    logDirectory: "",
    dns: undefined,
    hostAliases: [],
    portMappings: [],
    labels: {},
    annotations: {},
    namespaces: { network: "pod", pid: "pod", ipc: "pod" },
    sysctls: {},
    shmSizeBytes: 0,
    cgroupParent: "",
    runtimeHandler: "",
    allowsPrivileged: false,
  });
});

test("every field that has a meaning here arrives", () => {
  const config = convert({
    hostname: "h",
    logDirectory: "/var/log/pods/x",
    dnsConfig: { servers: ["10.0.0.1"], searches: ["a.b"], options: ["ndots:5"] },
    portMappings: [{ protocol: Protocol.SCTP, containerPort: 80, hostPort: 8080, hostIp: "127.0.0.1" }],
    labels: { a: "b" },
    annotations: { c: "d" },
    linux: {
      cgroupParent: "/kubepods/pod1",
      sysctls: { "net.core.somaxconn": "1024" },
      securityContext: {
        privileged: true,
        namespaceOptions: { pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.NODE, network: NamespaceMode.POD },
      },
    },
  });
  expect(config).toMatchObject({
    hostname: "h",
    logDirectory: "/var/log/pods/x",
    dns: { servers: ["10.0.0.1"], searches: ["a.b"], options: ["ndots:5"] },
    portMappings: [{ protocol: "sctp", containerPort: 80, hostPort: 8080, hostIp: "127.0.0.1" }],
    labels: { a: "b" },
    annotations: { c: "d" },
    cgroupParent: "/kubepods/pod1",
    sysctls: { "net.core.somaxconn": "1024" },
    namespaces: { network: "pod", pid: "container", ipc: "node" },
    allowsPrivileged: true,
  });
});

test("with the host's network there is no hostname of its own and no port to publish", () => {
  const config = convert({
    hostname: "h",
    portMappings: [{ containerPort: 80, hostPort: 80 }],
    ...namespaces({ network: NamespaceMode.NODE }),
  });
  expect(config).toMatchObject({ hostname: "", portMappings: [], namespaces: { network: "node" } });
});

describe("refused by name", () => {
  const mapping = { containerId: 0, hostId: 1000, length: 65536 };
  const userns = (options: object) => namespaces({ usernsOptions: options });
  test.each([
    ["config.metadata.name", "INVALID_FIELD", { metadata: { name: "", uid: "u", namespace: "n", attempt: 0 } }],
    ["config.metadata.namespace", "INVALID_FIELD", { metadata: { name: "a", uid: "u", namespace: "n\n", attempt: 0 } }],
    ["config.log_directory", "INVALID_FIELD", { logDirectory: "logs" }],
    ["config.windows", "INVALID_FIELD", { windows: {} }],
    ["port_mappings[0].host_port", "INVALID_FIELD", { portMappings: [{ containerPort: 80, hostPort: 70000 }] }],
    ["port_mappings[0].container_port", "INVALID_FIELD", { portMappings: [{ containerPort: -1 }] }],
    ["port_mappings[0].host_ip", "INVALID_FIELD", { portMappings: [{ containerPort: 80, hostIp: "x" }] }],
    ["port_mappings[0].protocol", "INVALID_FIELD", { portMappings: [{ containerPort: 80, protocol: 9 as never }] }],
    ["sysctls", "INVALID_FIELD", { linux: { sysctls: { "../x": "1" } } }],
    ["cgroup_parent", "INVALID_FIELD", { linux: { cgroupParent: "/a/../b" } }],
    ["cgroup_parent", "INVALID_FIELD", { linux: { cgroupParent: "pod.slice" } }],
    ["run_as_group", "INVALID_FIELD", security({ runAsGroup: { value: 1n } })],
    ["run_as_user", "INVALID_FIELD", security({ runAsUser: { value: -1n } })],
    ["namespace_options.network", "INVALID_FIELD", namespaces({ network: NamespaceMode.CONTAINER })],
    ["namespace_options.pid", "INVALID_FIELD", namespaces({ pid: NamespaceMode.TARGET })],
    ["userns_options.mode", "INVALID_FIELD", userns({ mode: NamespaceMode.CONTAINER })],
    ["userns_options.mode", "INVALID_FIELD", userns({ mode: NamespaceMode.TARGET })],
    [
      "userns_options.uids",
      "INVALID_FIELD",
      userns({ mode: NamespaceMode.POD, uids: [mapping, mapping], gids: [mapping] }),
    ],
    [
      "userns_options.gids",
      "INVALID_FIELD",
      userns({ mode: NamespaceMode.POD, uids: [mapping], gids: [{ ...mapping, containerId: 1 }] }),
    ],
  ])("%s: %s", (field, code, config) => {
    expect(() => convert(config)).toThrow(refusal(code, field));
  });

  test("a missing config", () => {
    expect(() => toSandboxConfig(undefined, "")).toThrow(refusal("INVALID_FIELD", "config"));
  });
});
