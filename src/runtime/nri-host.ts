/**
 * What NRI's plugins may ask of this runtime: what there is, new limits, the end of a container.
 */
import { RuntimeError } from "../base/errors.js";
import { type ContainerId, isLongId } from "../base/ids.js";
import type { NriHost } from "../nri/nri.js";
import type { SandboxRecord } from "../state/sandbox.js";
import type { RuntimeContext } from "./context.js";
import { nriContainer } from "./nri-events.js";
import { stopContainer } from "./stop-container.js";
import { applyUpdate } from "./update-container.js";

/** As a kubelet gives to a container that says nothing of it. */
const EVICTION_GRACE_MS = 30_000;

export function nriHost(ctx: RuntimeContext): NriHost {
  return {
    list: async () => {
      const sandboxes = ctx.sandboxes.list().map(({ body }) => body);
      const known = new Set(sandboxes.filter(isKnown).map(({ id }) => id));
      const containers = ctx.containers
        .list()
        .filter(({ body }) => known.has(body.sandboxId) && body.state !== "removing");
      return {
        sandboxes: sandboxes.filter(isKnown),
        containers: await Promise.all(containers.map(({ body }) => nriContainer(ctx, body))),
      };
    },
    update: (containerId, changes) => applyUpdate(ctx, requireId(ctx, containerId), changes),
    evict: (containerId) => stopContainer(ctx, requireId(ctx, containerId), EVICTION_GRACE_MS),
  };
}

function isKnown({ state }: SandboxRecord): boolean {
  return state === "ready" || state === "stopping" || state === "stopped";
}

function requireId(ctx: RuntimeContext, text: string): ContainerId {
  const record = isLongId(text) ? ctx.containers.get(text) : undefined;
  if (record) return record.id;
  throw new RuntimeError(`container "${text}": no container has this id`, {
    kind: "not-found",
    code: "CONTAINER_NOT_FOUND",
  });
}
