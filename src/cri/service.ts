/**
 * All verbs of CRI, put together for the server. Called by main.
 */
import { RuntimeError } from "../base/errors.js";
import type { ImageStore } from "../image/image-store.js";
import type { FigureOrigins } from "../runtime/figure-sources.js";
import type { Runtime, RuntimeEvent } from "../runtime/runtime.js";
import type { StreamingServer } from "../streaming/streaming-server.js";
import { containerVerbs } from "./containers.js";
import { eventVerbs } from "./events.js";
import { imageVerbs } from "./images.js";
import { type Introspection, introspectionVerbs } from "./introspection.js";
import { metricVerbs } from "./metrics.js";
import { sandboxVerbs } from "./sandboxes.js";
import { statsVerbs } from "./stats.js";
import { streamVerbs } from "./streams.js";
import type { Verbs } from "./verbs.js";

export interface CriParts {
  readonly runtime: Runtime;
  readonly images: ImageStore;
  readonly streaming: StreamingServer;
  readonly introspection: Introspection;
  /** What recovery found. */
  readonly missedEvents: readonly RuntimeEvent[];
  readonly figureOrigins: FigureOrigins;
  /** Where containers' writable layers are: the daemon's root. */
  readonly root: string;
}

export function criVerbs(parts: CriParts): Verbs {
  const { runtime, images, streaming, introspection, root, missedEvents, figureOrigins } = parts;
  return {
    ...introspectionVerbs(introspection),
    ...sandboxVerbs(runtime, images),
    ...containerVerbs(runtime, images),
    ...streamVerbs(runtime, streaming),
    ...statsVerbs(runtime),
    ...metricVerbs(runtime, figureOrigins),
    ...eventVerbs(runtime, images, missedEvents),
    ...imageVerbs({ images, containerFsUsage: () => containerFsUsage(runtime, root) }),
    // The one thing that it carries is a pod CIDR, for networks that a kubelet's cluster hands out;
    // the pod network's subnets are the settings'.
    updateRuntimeConfig: () => ({}),
    checkpointContainer: () => refuse("CheckpointContainer", "a container's state cannot be saved"),
    checkpointPod: () => refuse("CheckpointPod", "a pod's state cannot be saved"),
    restorePod: () => refuse("RestorePod", "a pod cannot be restored from a checkpoint"),
  };
}

function refuse(method: string, why: string): never {
  throw new RuntimeError(`${method}: ${why}; checkpoints are not implemented in this version`, {
    kind: "unimplemented",
    code: "NOT_IMPLEMENTED",
  });
}

async function containerFsUsage(runtime: Runtime, mountpoint: string) {
  const ids = [...runtime.listContainers("cri"), ...runtime.listContainers("pod")].map(({ id }) => id);
  const outcomes = await Promise.allSettled(ids.map((id) => runtime.containerUsage(id)));
  let [usedBytes, usedInodes] = [0n, 0n];
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") continue;
    usedBytes += outcome.value.layer.usedBytes;
    usedInodes += outcome.value.layer.usedInodes;
  }
  return { mountpoint, usedBytes, usedInodes };
}
