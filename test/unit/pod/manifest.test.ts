/** Reading manifests: YAML as Kubernetes reads it, problems and warnings by path, defaults. */
import { describe, expect, test } from "vitest";
import { defaultPullPolicy } from "../../../src/pod/manifest/defaults.js";
import type { FieldProblem } from "../../../src/pod/manifest/problems.js";
import { ManifestError } from "../../../src/pod/manifest/problems.js";
import { parseQuantity, quantityMillis, quantityValue } from "../../../src/pod/manifest/quantity.js";
import { readManifest } from "../../../src/pod/manifest/read.js";
import { MANIFEST_LIMIT_BYTES, parseYamlDocuments } from "../../../src/pod/manifest/yaml.js";

const read = (text: string, strict = false) =>
  readManifest(parseYamlDocuments(text, "test"), { source: "test", namespace: "default", strict });

function problemsOf(text: string): readonly FieldProblem[] {
  try {
    read(text);
  } catch (err) {
    if (err instanceof ManifestError) return err.problems;
    throw err;
  }
  return [];
}

const pod = (spec: string, metadata = "name: p") =>
  `apiVersion: v1\nkind: Pod\nmetadata: { ${metadata} }\nspec: { ${spec} }\n`;
const one = (container: string, spec = "") => pod(`${spec} containers: [{ name: c, image: "b:1", ${container} }]`);

describe("YAML", () => {
  test.each([
    ["0644", 420],
    ["0x10", 16],
    ["12:30:00", "12:30:00"],
    ["2024-01-01", "2024-01-01"],
    ["yes", true],
    ["1e3", 1000],
    ['"0644"', "0644"],
  ])("%s is read as Kubernetes does", (text, value) => {
    expect(parseYamlDocuments(`a: ${text}`, "test")).toEqual([{ a: value }]);
  });

  test("that is malformed says line and column", () => {
    expect(() => parseYamlDocuments("a: 1\nb: [1, 2\nc: 3\n", "f.yaml")).toThrow(
      /^read manifest "f\.yaml": line \d+, column \d+: /,
    );
  });

  test("with a key twice is INVALID_YAML", () => {
    expect(() => parseYamlDocuments("a: 1\na: 2\n", "test")).toThrow(expect.objectContaining({ code: "INVALID_YAML" }));
  });

  test("over 4 MiB is MANIFEST_TOO_LARGE", () => {
    expect(() => parseYamlDocuments("a".repeat(MANIFEST_LIMIT_BYTES + 1), "test")).toThrow(
      expect.objectContaining({ code: "MANIFEST_TOO_LARGE" }),
    );
  });

  test("of several documents leaves empty ones out", () => {
    expect(parseYamlDocuments("---\na: 1\n---\n---\nb: 2\n", "test")).toEqual([{ a: 1 }, { b: 2 }]);
  });
});

describe("problems", () => {
  test.each([
    ["an upper-case name", pod('containers: [{ name: c, image: "b:1" }]', "name: P"), "metadata.name"],
    ["no name", pod('containers: [{ name: c, image: "b:1" }]', "labels: {}"), "metadata.name"],
    ["no containers", pod("containers: []"), "spec.containers"],
    ["no image", pod("containers: [{ name: c }]"), "spec.containers[0].image"],
    [
      "a container name twice",
      pod('containers: [{ name: c, image: "b:1" }, { name: c, image: "b:1" }]'),
      "spec.containers[1].name",
    ],
    ["a volume name twice", one("", "volumes: [{ name: v }, { name: v }],"), "spec.volumes[1].name"],
    [
      "a mount without volume",
      one("volumeMounts: [{ name: v, mountPath: /v }]"),
      "spec.containers[0].volumeMounts[0].name",
    ],
    [
      "a relative mount path",
      one("volumeMounts: [{ name: v, mountPath: v }]", "volumes: [{ name: v }],"),
      "spec.containers[0].volumeMounts[0].mountPath",
    ],
    [
      "a subPath that leads out",
      one("volumeMounts: [{ name: v, mountPath: /v, subPath: a/../.. }]", "volumes: [{ name: v }],"),
      "spec.containers[0].volumeMounts[0].subPath",
    ],
    [
      "a seccomp profile that leads out",
      one("securityContext: { seccompProfile: { type: Localhost, localhostProfile: ../p.json } }"),
      "spec.containers[0].securityContext.seccompProfile.localhostProfile",
    ],
    [
      "an AppArmor profile without a name",
      one("securityContext: { appArmorProfile: { type: Localhost } }"),
      "spec.containers[0].securityContext.appArmorProfile.localhostProfile",
    ],
    [
      "a named profile that is the default",
      one("", "securityContext: { seccompProfile: { type: RuntimeDefault, localhostProfile: p.json } },"),
      "spec.securityContext.seccompProfile.localhostProfile",
    ],
    ["a port of 0", one("ports: [{ containerPort: 0 }]"), "spec.containers[0].ports[0].containerPort"],
    [
      "a protocol that is none",
      one("ports: [{ containerPort: 1, protocol: tcp }]"),
      "spec.containers[0].ports[0].protocol",
    ],
    [
      "a host port twice",
      one("ports: [{ containerPort: 1, hostPort: 9 }, { containerPort: 2, hostPort: 9 }]"),
      "spec.containers[0].ports[1].hostPort",
    ],
    [
      "a quantity that is none",
      one("resources: { limits: { memory: lots } }"),
      "spec.containers[0].resources.limits.memory".replace(".memory", '["memory"]'),
    ],
    ["a number as an env value", one("env: [{ name: A, value: 1 }]"), "spec.containers[0].env[0].value"],
    ["an env name with =", one('env: [{ name: "A=B", value: x }]'), "spec.containers[0].env[0].name"],
    ["a restart policy that is none", one("", "restartPolicy: Sometimes,"), "spec.restartPolicy"],
    [
      "a volume source that is not supported",
      one("", "volumes: [{ name: v, nfs: { server: s, path: / } }],"),
      "spec.volumes[0].nfs",
    ],
    [
      "a persistent volume",
      one("", "volumes: [{ name: v, persistentVolumeClaim: { claimName: m } }],"),
      "spec.volumes[0].persistentVolumeClaim",
    ],
    [
      "a service account token",
      one("", "volumes: [{ name: v, projected: { sources: [{ serviceAccountToken: { path: t } }] } }],"),
      "spec.volumes[0].projected.sources[0].serviceAccountToken",
    ],
    [
      "two sources of one variable",
      one("env: [{ name: A, valueFrom: { secretKeyRef: { name: s, key: k }, configMapKeyRef: { name: s, key: k } } }]"),
      "spec.containers[0].env[0].valueFrom",
    ],
    ["a stop signal that is none", one("lifecycle: { stopSignal: TERM }"), "spec.containers[0].lifecycle.stopSignal"],
    ["a word", "nonsense\n", "the document"],
    ["a list", "- a\n- b\n", "the document"],
    ["another kind", "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\n", "kind"],
  ])("%s is refused by path", (_, text, path) => {
    expect(problemsOf(text).map((problem) => problem.path)).toContain(path);
  });

  test("two pods of one name in a file are refused", () => {
    expect(problemsOf(`${one("")}---\n${one("")}`).map(({ message }) => message)).toContain(
      'two objects of kind Pod are named "p" in namespace "default"',
    );
  });

  test("all are told, not only the first", () => {
    expect(
      problemsOf(pod('containers: [{ name: C, image: "b:1", ports: [{ containerPort: 0 }] }]', "name: P")),
    ).toHaveLength(3);
  });
});

describe("warnings", () => {
  test("tell a field without effect from one that nobody knows", () => {
    const { warnings } = read(one("volumeDevices: [], comand: [x]"));
    expect(warnings).toEqual([
      { path: "spec.containers[0].volumeDevices", message: "has no effect here, ignored" },
      { path: "spec.containers[0].comand", message: "unknown field, ignored" },
    ]);
  });

  test("are errors when strict", () => {
    expect(() => read(one("comand: [x]"), true)).toThrow(/spec\.containers\[0\]\.comand: unknown field$/);
  });
});

describe("defaults", () => {
  test("are Kubernetes'", () => {
    expect(read(one("ports: [{ containerPort: 80 }]")).pods[0]).toMatchObject({
      metadata: { namespace: "default" },
      spec: {
        restartPolicy: "Always",
        terminationGracePeriodSeconds: 30,
        dnsPolicy: "ClusterFirst",
        containers: [{ imagePullPolicy: "IfNotPresent", ports: [{ protocol: "TCP" }] }],
      },
    });
  });

  test.each([
    ["b", "Always"],
    ["b:latest", "Always"],
    ["b:1", "IfNotPresent"],
    ["r:5000/b", "Always"],
    ["r:5000/b:1", "IfNotPresent"],
    ["b:latest@sha256:00", "IfNotPresent"],
  ])("pull policy of %s is %s", (image, policy) => {
    expect(defaultPullPolicy(image)).toBe(policy);
  });
});

describe("quantities", () => {
  test.each([
    ["100m", 0.1],
    ["1.5", 1.5],
    ["64Mi", 67_108_864],
    ["1e3", 1000],
    [2, 2],
    [".5Gi", 536_870_912],
    ["1k", 1000],
  ])("%s is %d", (text, value) => {
    expect(parseQuantity(text)).toBe(value);
  });

  test.each(["", "1 Mi", "Mi", "1MiB", "--1", "1e"])("%s is none", (text) => {
    expect(parseQuantity(text)).toBeUndefined();
  });

  test("round up to whole units and thousandths", () => {
    expect([quantityValue("1500m"), quantityMillis("100m"), quantityMillis("0.0001")]).toEqual([2, 100, 1]);
  });
});
