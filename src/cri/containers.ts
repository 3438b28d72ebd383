/**
 * The verbs of containers but streams and figures.
 */
import { stat } from "node:fs/promises";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Digest } from "../base/ids.js";
import type { ImageRecord } from "../image/image-record.js";
import type { ImageStore } from "../image/image-store.js";
import type { Runtime } from "../runtime/runtime.js";
import type { ContainerConfig, ContainerStatus } from "../state/container.js";
import { inBatches } from "./batches.js";
import { toContainerConfig } from "./convert/container-config.js";
import { checkCommand, invalidField, toNumber } from "./convert/fields.js";
import { toResources } from "./convert/resources.js";
import { toContainer, toContainerState, toContainerStatus, toInfo } from "./convert/status.js";
import type { ContainerFilter } from "./generated/runtime/v1/api.js";
import { findContainer, hasLabels, requireContainer, requireSandbox } from "./lookup.js";
import type { Verbs } from "./verbs.js";

const MAX_TIMEOUT_S = 1_000_000_000;

export function containerVerbs(runtime: Runtime, images: Pick<ImageStore, "resolve">): Verbs {
  const list = (filter: ContainerFilter | undefined) => {
    // Many containers have few images, and each is looked for among all of the host's.
    const found = new Map<Digest, ImageRecord | undefined>();
    const imageOf = ({ imageId }: ContainerStatus) => {
      if (!found.has(imageId)) found.set(imageId, images.resolve(imageId));
      return found.get(imageId);
    };
    return runtime
      .listContainers("cri")
      .filter((container) => matches(container, filter))
      .map((container) => toContainer(container, imageOf(container)));
  };
  return {
    createContainer: async ({ podSandboxId, config }, { signal }) => {
      const sandbox = requireSandbox(runtime, podSandboxId);
      const wanted = withTarget(runtime, toContainerConfig(config, sandbox.config));
      await checkMountSources(wanted);
      return { containerId: await runtime.createContainer(sandbox.id, wanted, signal) };
    },
    startContainer: async ({ containerId }) => {
      await runtime.startContainer(requireContainer(runtime, containerId).id);
      return {};
    },
    stopContainer: async ({ containerId, timeout }) => {
      const container = findContainer(runtime, containerId);
      // Negative is no time at all, as it is for a kubelet.
      const graceMs = Math.max(0, toNumber(timeout, "timeout", -MAX_TIMEOUT_S, MAX_TIMEOUT_S)) * 1000;
      if (container) await runtime.stopContainer(container.id, graceMs);
      return {};
    },
    removeContainer: async ({ containerId }) => {
      const container = findContainer(runtime, containerId);
      if (container) await runtime.removeContainer(container.id);
      return {};
    },
    listContainers: ({ filter }) => ({ containers: list(filter) }),
    streamContainers: async function* ({ filter }) {
      for (const containers of inBatches(list(filter))) yield { containers };
    },
    containerStatus: ({ containerId, verbose }) => {
      const container = requireContainer(runtime, containerId);
      return {
        status: toContainerStatus(container, images.resolve(container.imageId)),
        info: verbose ? toInfo(container) : {},
      };
    },
    updateContainerResources: async ({ containerId, linux, windows }) => {
      if (windows) throw invalidField("windows", "this is a Linux host");
      await runtime.updateContainerResources(requireContainer(runtime, containerId).id, toResources(linux, "linux"));
      return {};
    },
    reopenContainerLog: async ({ containerId }) => {
      await runtime.reopenContainerLog(requireContainer(runtime, containerId).id);
      return {};
    },
    execSync: async ({ containerId, cmd, timeout }, { signal }) => {
      checkCommand(cmd);
      const { id } = requireContainer(runtime, containerId);
      const timeoutMs = toNumber(timeout, "timeout", 0, MAX_TIMEOUT_S) * 1000;
      const { exitCode, stdout, stderr } = await runtime.execSync(id, cmd, timeoutMs, signal);
      return { exitCode, stdout, stderr };
    },
  };
}

function matches(container: ContainerStatus, filter: ContainerFilter | undefined): boolean {
  if (!filter) return true;
  if (filter.id !== "" && !container.id.startsWith(filter.id)) return false;
  if (filter.podSandboxId !== "" && !container.sandboxId.startsWith(filter.podSandboxId)) return false;
  if (filter.state && filter.state.state !== toContainerState(container)) return false;
  return hasLabels(container.config.labels, filter.labelSelector);
}

/** A target may be named by a prefix too. */
function withTarget(runtime: Runtime, config: ContainerConfig): ContainerConfig {
  return typeof config.pid === "object"
    ? { ...config, pid: { target: requireContainer(runtime, config.pid.target).id } }
    : config;
}

/** api.proto, Mount.host_path: a path that does not exist is an error, and links are followed. */
async function checkMountSources(config: ContainerConfig): Promise<void> {
  await Promise.all(
    config.mounts.map(async ({ hostPath, image }, index) =>
      image === undefined
        ? stat(hostPath).catch((err: unknown) => {
            const { message, syscall } = toRuntimeError(err);
            throw new RuntimeError(`config.mounts[${index}].host_path "${hostPath}": ${message}`, {
              kind: "failed-precondition",
              code: "MOUNT_SOURCE_INVALID",
              syscall,
              cause: err,
            });
          })
        : undefined,
    ),
  );
}
