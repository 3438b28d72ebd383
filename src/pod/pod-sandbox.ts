/**
 * A new sandbox for a pod, with its volumes made beside it; what an earlier attempt left goes first.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Timeline } from "../base/timeline.js";
import type { Runtime } from "../runtime/runtime.js";
import type { Paths } from "../settings/paths.js";
import type { SandboxDns } from "../state/sandbox.js";
import { toSandboxConfig } from "./convert.js";
import type { PodVolumes } from "./pod-volumes.js";
import type { PodRecord } from "./record.js";
import { settleBoth } from "./settle-both.js";

export interface SandboxMaking {
  readonly record: PodRecord;
  readonly volumes: PodVolumes;
  readonly runtime: Runtime;
  readonly paths: Paths;
  readonly timeline: Timeline;
  readonly signal: AbortSignal;
  readonly hostDns: () => SandboxDns;
  /** Settles when the record is written as it is. */
  readonly flush: () => Promise<void>;
}

export type SandboxOutcome =
  | {
      readonly sandbox: NonNullable<PodRecord["sandbox"]>;
      readonly volumes: ReadonlyMap<string, string>;
      readonly failure?: undefined;
    }
  | { readonly failure: { readonly reason: "FailedMount" | "FailedCreatePodSandBox"; readonly err: unknown } };

/** Changes no record; never rejects. */
export async function makePodSandbox(making: SandboxMaking): Promise<SandboxOutcome> {
  const { record, runtime, timeline } = making;
  const { pod, uid } = record;
  let mountFailure: unknown;
  try {
    const logDirectory = making.paths.podLogs(pod.metadata.namespace, pod.metadata.name, uid);
    const names = [...(pod.spec.initContainers ?? []), ...pod.spec.containers].map(({ name }) => name);
    await Promise.all(names.map((name) => mkdir(join(logDirectory, name), { recursive: true, mode: 0o700 })));
    const attempt = (record.sandbox?.attempt ?? -1) + 1;
    await removeFormer(making);
    const config = toSandboxConfig(pod, { uid, attempt, logDirectory, hostDns: making.hostDns() });
    const [id, volumes] = await settleBoth(
      timeline.step("sandbox", () => runtime.runSandbox(config, making.signal)),
      timeline
        .step("volumes", () => making.volumes.prepare())
        .catch((err: unknown) => {
          mountFailure = err;
          throw err;
        }),
      (orphan) => runtime.removeSandbox(orphan),
    );
    return { sandbox: { id, attempt, ips: runtime.sandboxStatus(id).network?.ips ?? [] }, volumes };
  } catch (err) {
    return { failure: { reason: err === mountFailure ? "FailedMount" : "FailedCreatePodSandBox", err } };
  }
}

async function removeFormer({ record, runtime, flush }: SandboxMaking): Promise<void> {
  if (record.sandbox) {
    // How its containers ended must be written before the runtime forgets them.
    await flush();
    await runtime.removeSandbox(record.sandbox.id);
  }
  if (!record.sandboxFailure) return;
  // An attempt that failed late may have left its sandbox.
  for (const { id, config } of runtime.listSandboxes("pod"))
    if (config.metadata.uid === record.uid) await runtime.removeSandbox(id);
}
