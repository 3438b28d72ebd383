/**
 * An engine over a Runtime in memory, in a directory of its own.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { createLog } from "../../../src/base/log.js";
import { RuntimeError } from "../../../src/base/errors.js";
import { ConfigObjects } from "../../../src/pod/config-objects.js";
import { PodEngine, type PodSettings } from "../../../src/pod/engine.js";
import type { HistoryRecord } from "../../../src/pod/history.js";
import type { Images } from "../../../src/pod/images.js";
import { readManifest } from "../../../src/pod/manifest/read.js";
import { parseYamlDocuments } from "../../../src/pod/manifest/yaml.js";
import type { PodRecord } from "../../../src/pod/record.js";
import type { PodJson } from "../../../src/pod/status.js";
import { Paths } from "../../../src/settings/paths.js";
import { MemoryRuntime, MemoryStore } from "./memory-runtime.js";

export interface Fixture {
  engine: PodEngine;
  readonly runtime: MemoryRuntime;
  readonly store: MemoryStore<PodRecord>;
  readonly paths: Paths;
  run(yaml: string): Promise<PodJson>;
  /** Waits until the pod is as asked, and returns it. */
  until(name: string, test: (pod: PodJson) => boolean): Promise<PodJson>;
  /** The daemon dies and comes back: same runtime, same records. */
  restart(between?: () => void): Promise<void>;
}

const images: Images = {
  async ensure(reference) {
    if (reference.includes("missing"))
      throw new RuntimeError("no such image", { kind: "not-found", code: "IMAGE_NOT_FOUND" });
    return {
      id: "sha256:1",
      digestReference: `${reference}@sha256:1`,
      user: reference.includes("nobody") ? "65534" : "",
      wasPulled: false,
    };
  },
};

export async function openFixture(settings: Partial<PodSettings> = {}): Promise<Fixture> {
  const root = await mkdtemp(join(tmpdir(), "minke-pod-test-"));
  const runtime = new MemoryRuntime();
  const store = new MemoryStore<PodRecord>();
  const paths = new Paths(join(root, "root"), join(root, "run"));
  const mounts = { mountTmpfs: async () => undefined, unmount: async () => undefined };
  const history = new MemoryStore<HistoryRecord>();
  const open = () =>
    PodEngine.open({
      runtime,
      images,
      store,
      history,
      configMaps: new ConfigObjects("ConfigMap", new MemoryStore()),
      secrets: new ConfigObjects("Secret", new MemoryStore()),
      paths,
      mounts,
      settings: { restartBackoffBaseMs: 20, restartBackoffMaxMs: 80, ...settings },
      log: createLog("silent"),
    });
  const fixture: Fixture = {
    engine: await open(),
    runtime,
    store,
    paths,
    async run(yaml) {
      const { pods, warnings } = readManifest(parseYamlDocuments(yaml, "test"), {
        source: "test",
        namespace: "default",
        strict: false,
      });
      const [pod] = pods;
      if (!pod) throw new Error("no pod in the manifest");
      return fixture.engine.run(pod, warnings);
    },
    async until(name, test) {
      for (let tries = 0; tries < 1000; tries++) {
        const pod = fixture.engine.get("default", name);
        if (test(pod)) return pod;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      throw new Error(
        `pod "${name}" never came there: ${JSON.stringify(fixture.engine.get("default", name).status, null, 1)}`,
      );
    },
    async restart(between) {
      await fixture.engine.close();
      between?.();
      fixture.engine = await open();
    },
  };
  onTestFinished(async () => {
    await fixture.engine.close();
    // What was being made when it was closed is made to its end.
    await rm(root, { recursive: true, force: true, maxRetries: 100, retryDelay: 10 });
  });
  return fixture;
}

export const isReady = (pod: PodJson): boolean =>
  pod.status.conditions.some(({ type, status }) => type === "Ready" && status === "True");

/** The classic pod: an init container, a sidecar, a server, and a volume they share. */
export const WEB = `
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{ name: content, emptyDir: {} }]
  initContainers:
  - { name: prepare, image: "busybox:1", volumeMounts: [{ name: content, mountPath: /content }] }
  - { name: refresh, image: "busybox:1", restartPolicy: Always, volumeMounts: [{ name: content, mountPath: /content }] }
  containers:
  - { name: nginx, image: "nginx:1", ports: [{ containerPort: 80, hostPort: 8080 }], volumeMounts: [{ name: content, mountPath: /srv, readOnly: true }] }
`;

export function podYaml(name: string, fields: string): string {
  return `apiVersion: v1\nkind: Pod\nmetadata: { name: ${name} }\nspec:\n${fields}\n`;
}
