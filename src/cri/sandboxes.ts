/**
 * The verbs of pod sandboxes. They know CRI's messages and rules; what happens is the runtime's.
 */
import { nowNs } from "../base/clock.js";
import type { Runtime } from "../runtime/runtime.js";
import type { ImageStore } from "../image/image-store.js";
import type { SandboxStatus } from "../state/sandbox.js";
import { toResources } from "./convert/resources.js";
import { toSandboxConfig } from "./convert/sandbox-config.js";
import { toContainerStatus, toInfo, toPodSandbox, toPodSandboxStatus, toSandboxState } from "./convert/status.js";
import type { PodSandboxFilter } from "./generated/runtime/v1/api.js";
import { findSandbox, hasLabels, requireSandbox } from "./lookup.js";
import { inBatches } from "./batches.js";
import type { Verbs } from "./verbs.js";

export function sandboxVerbs(runtime: Runtime, images: Pick<ImageStore, "resolve">): Verbs {
  // One that is being made is no sandbox yet: a kubelet that sees it asks for the next attempt, where the same
  // request would have joined the one in flight.
  const list = (filter: PodSandboxFilter | undefined) =>
    runtime
      .listSandboxes("cri")
      .filter((sandbox) => sandbox.state !== "creating" && matches(sandbox, filter))
      .map(toPodSandbox);
  return {
    runPodSandbox: async ({ config, runtimeHandler }, { signal }) => ({
      podSandboxId: await runtime.runSandbox(toSandboxConfig(config, runtimeHandler), signal),
    }),
    stopPodSandbox: async ({ podSandboxId }) => {
      const sandbox = findSandbox(runtime, podSandboxId);
      if (sandbox) await runtime.stopSandbox(sandbox.id);
      return {};
    },
    removePodSandbox: async ({ podSandboxId }) => {
      const sandbox = findSandbox(runtime, podSandboxId);
      if (sandbox) await runtime.removeSandbox(sandbox.id);
      return {};
    },
    podSandboxStatus: ({ podSandboxId, verbose }) => {
      const sandbox = requireSandbox(runtime, podSandboxId);
      return {
        status: toPodSandboxStatus(sandbox),
        info: verbose ? toInfo(sandbox) : {},
        containersStatuses: runtime
          .listContainers("cri", sandbox.id)
          .map((container) => toContainerStatus(container, images.resolve(container.imageId))),
        timestamp: nowNs(),
      };
    },
    updatePodSandboxResources: async ({ podSandboxId, overhead, resources }) => {
      const { id } = requireSandbox(runtime, podSandboxId);
      // The pod's own cgroup is the kubelet's, which has written these limits before it tells us.
      await runtime.updateSandboxResources(id, toResources(overhead, "overhead"), toResources(resources, "resources"));
      return {};
    },
    listPodSandbox: ({ filter }) => ({ items: list(filter) }),
    streamPodSandboxes: async function* ({ filter }) {
      for (const podSandboxes of inBatches(list(filter))) yield { podSandboxes };
    },
  };
}

function matches(sandbox: SandboxStatus, filter: PodSandboxFilter | undefined): boolean {
  if (!filter) return true;
  if (filter.id !== "" && !sandbox.id.startsWith(filter.id)) return false;
  if (filter.state && filter.state.state !== toSandboxState(sandbox)) return false;
  return hasLabels(sandbox.config.labels, filter.labelSelector);
}
