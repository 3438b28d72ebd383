/**
 * GetContainerEvents: a stream of what happens to CRI's containers and sandboxes, and before it what
 * happened while nobody listened.
 */
import { once, EventEmitter } from "node:events";
import { nowNs } from "../base/clock.js";
import { RuntimeError } from "../base/errors.js";
import type { ImageRecord } from "../image/image-record.js";
import type { ImageStore } from "../image/image-store.js";
import type { Runtime, RuntimeEvent } from "../runtime/runtime.js";
import type { ContainerStatus } from "../state/container.js";
import type { SandboxStatus } from "../state/sandbox.js";
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

/** What is kept while no client listens; the oldest go. A kubelet that comes back lists everything anyway. */
const MAX_KEPT = 1_000;

/**
 * @param missed what happened before anybody could subscribe: containers that ended while the daemon was down
 */
export function eventVerbs(
  runtime: Runtime,
  images: Pick<ImageStore, "resolve">,
  missed: readonly RuntimeEvent[] = [],
): Verbs {
  const clients = new Set<(moment: Moment) => void>();
  let kept: Moment[] = [];
  const take = (event: RuntimeEvent) => {
    if (event.owner !== "cri") return;
    const moment = toMoment(runtime, images, event);
    for (const client of clients) client(moment);
    if (clients.size > 0) return;
    kept.push(moment);
    if (kept.length > MAX_KEPT) kept.shift();
  };
  for (const event of missed) take(event);
  // For as long as the daemon runs.
  runtime.subscribe(take);
  return {
    getContainerEvents: async function* (_request, { signal }) {
      // The first one that comes back gets what was kept.
      const pending = kept;
      kept = [];
      const wake = new EventEmitter();
      const client = (moment: Moment) => {
        if (pending.length <= MAX_PENDING) pending.push(moment);
        wake.emit("event");
      };
      clients.add(client);
      try {
        while (!signal.aborted) {
          if (pending.length > MAX_PENDING) {
            throw new RuntimeError(`${MAX_PENDING} events were not read in time; list and subscribe again`, {
              kind: "resource-exhausted",
              code: "STREAM_TOO_SLOW",
            });
          }
          const next = pending.shift();
          if (next) yield toResponse(next);
          else await once(wake, "event", { signal }).catch(() => undefined);
        }
      } finally {
        clients.delete(client);
        // What it never got is the next one's.
        if (clients.size === 0) kept = pending.slice(-MAX_KEPT);
      }
    },
  };
}

/**
 * An event with the states as they were at it: what is removed is not there any more. Statuses are never
 * changed in place, so they are put into CRI's words only for a client that reads them: most events have none.
 */
interface Moment {
  readonly event: RuntimeEvent;
  readonly createdAt: bigint;
  readonly sandbox: SandboxStatus | undefined;
  readonly containers: readonly { readonly status: ContainerStatus; readonly image: ImageRecord | undefined }[];
}

function toMoment(runtime: Runtime, images: Pick<ImageStore, "resolve">, event: RuntimeEvent): Moment {
  return {
    event,
    createdAt: nowNs(),
    sandbox: runtime.listSandboxes("cri", event.sandboxId)[0],
    containers: runtime
      .listContainers("cri", event.sandboxId)
      .map((status) => ({ status, image: images.resolve(status.imageId) })),
  };
}

function toResponse({ event, createdAt, sandbox, containers }: Moment): ContainerEventResponse {
  return {
    // A sandbox's own events carry its id, as those of a pause container do elsewhere.
    containerId: "containerId" in event ? event.containerId : event.sandboxId,
    containerEventType: TYPES[event.type],
    createdAt,
    podSandboxStatus: sandbox && toPodSandboxStatus(sandbox),
    containersStatuses: containers.map(({ status, image }) => toContainerStatus(status, image)),
  };
}
