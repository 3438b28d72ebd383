/**
 * GetContainerEvents: a stream of what happens to CRI's containers and sandboxes, from when it is asked for.
 */
import { once, EventEmitter } from "node:events";
import { nowNs } from "../base/clock.js";
import { RuntimeError } from "../base/errors.js";
import type { ImageStore } from "../image/image-store.js";
import type { Runtime, RuntimeEvent } from "../runtime/runtime.js";
import { toContainerStatus, toPodSandboxStatus } from "./convert/status.js";
import { type ContainerEventResponse, ContainerEventType } from "./generated/runtime/v1/api.js";
import type { Verbs } from "./verbs.js";

/** Of one client that does not read: beyond it, the stream ends with an error instead of events lost in silence. */
const MAX_PENDING = 10_000;

const TYPES = {
  "sandbox-ready": ContainerEventType.CONTAINER_STARTED_EVENT,
  "sandbox-stopped": ContainerEventType.CONTAINER_STOPPED_EVENT,
  "sandbox-removed": ContainerEventType.CONTAINER_DELETED_EVENT,
  "container-created": ContainerEventType.CONTAINER_CREATED_EVENT,
  "container-started": ContainerEventType.CONTAINER_STARTED_EVENT,
  "container-exited": ContainerEventType.CONTAINER_STOPPED_EVENT,
  "container-removed": ContainerEventType.CONTAINER_DELETED_EVENT,
} as const satisfies Record<RuntimeEvent["type"], ContainerEventType>;

export function eventVerbs(runtime: Runtime, images: Pick<ImageStore, "resolve">): Verbs {
  return {
    getContainerEvents: async function* (_request, { signal }) {
      const pending: ContainerEventResponse[] = [];
      const wake = new EventEmitter();
      const unsubscribe = runtime.subscribe((event) => {
        if (event.owner !== "cri") return;
        if (pending.length <= MAX_PENDING) pending.push(toResponse(runtime, images, event));
        wake.emit("event");
      });
      try {
        while (!signal.aborted) {
          if (pending.length > MAX_PENDING) {
            throw new RuntimeError(`${MAX_PENDING} events were not read in time; list and subscribe again`, {
              kind: "resource-exhausted",
              code: "STREAM_TOO_SLOW",
            });
          }
          const next = pending.shift();
          if (next) yield next;
          else await once(wake, "event", { signal }).catch(() => undefined);
        }
      } finally {
        unsubscribe();
      }
    },
  };
}

/** With the states as they are at the event: what is removed is not there any more. */
function toResponse(
  runtime: Runtime,
  images: Pick<ImageStore, "resolve">,
  event: RuntimeEvent,
): ContainerEventResponse {
  const sandbox = runtime.listSandboxes("cri").find(({ id }) => id === event.sandboxId);
  return {
    // A sandbox's own events carry its id, as those of a pause container do elsewhere.
    containerId: "containerId" in event ? event.containerId : event.sandboxId,
    containerEventType: TYPES[event.type],
    createdAt: nowNs(),
    podSandboxStatus: sandbox && toPodSandboxStatus(sandbox),
    containersStatuses: runtime
      .listContainers("cri", event.sandboxId)
      .map((container) => toContainerStatus(container, images.resolve(container.imageId))),
  };
}
