/** What a manifest asks for as the runtime's config. */
import { expect, test } from "vitest";
import { toContainerConfig } from "../../../src/pod/convert.js";
import { readManifest } from "../../../src/pod/manifest/read.js";
import { parseYamlDocuments } from "../../../src/pod/manifest/yaml.js";
import type { ContainerConfig } from "../../../src/state/container.js";

function converted(spec: string, container: string): ContainerConfig {
  const text = `{ apiVersion: v1, kind: Pod, metadata: { name: p }, spec: { ${spec} containers: [{ name: c, image: "b:1", ${container} }] } }`;
  const { pods, warnings } = readManifest(parseYamlDocuments(text, "test"), {
    source: "test",
    namespace: "default",
    strict: false,
  });
  expect(warnings).toEqual([]);
  const [pod] = pods;
  if (!pod?.spec.containers[0]) throw new Error("no container was read");
  return toContainerConfig(pod.spec.containers[0], pod, {
    uid: "u",
    podIps: [],
    hostIps: [],
    nodeName: "n",
    attempt: 0,
    image: { id: "sha256:i", user: "" } as never,
    mounts: [],
    configs: { find: () => undefined } as never,
    seccompDir: "/srv/seccomp",
    logMaxBytes: 1,
    logMaxFiles: 1,
  });
}

test("profiles of a container go before those of its pod", () => {
  const shared =
    "securityContext: { seccompProfile: { type: RuntimeDefault }, appArmorProfile: { type: Unconfined } },";
  expect(converted(shared, "").security).toMatchObject({
    seccomp: { type: "runtime-default", localhostRef: "" },
    apparmor: { type: "unconfined", localhostRef: "" },
  });
  const own =
    "securityContext: { seccompProfile: { type: Localhost, localhostProfile: a/b.json }, appArmorProfile: { type: Localhost, localhostProfile: mine } }";
  expect(converted(shared, own).security).toMatchObject({
    seccomp: { type: "localhost", localhostRef: "/srv/seccomp/a/b.json" },
    apparmor: { type: "localhost", localhostRef: "mine" },
  });
});

test("without a profile there is none", () => {
  const { security } = converted("", "");
  expect(security.seccomp).toBeUndefined();
  expect(security.apparmor).toBeUndefined();
});

test("supplementalGroupsPolicy Strict is the user's", () => {
  expect(converted("securityContext: { supplementalGroupsPolicy: Strict },", "").user.supplementalGroupsPolicy).toBe(
    "strict",
  );
  expect(
    converted("securityContext: { supplementalGroupsPolicy: Merge },", "").user.supplementalGroupsPolicy,
  ).toBeUndefined();
});
