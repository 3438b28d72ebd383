import { expect, test } from "vitest";
import type { ContainerId, Digest, SandboxId } from "../../../src/base/ids.js";
import { eventVerbs } from "../../../src/cri/events.js";
import {
  type ContainerEventResponse,
  ContainerEventType,
  ContainerState,
} from "../../../src/cri/generated/runtime/v1/api.js";
import type { ImageRecord } from "../../../src/image/image-record.js";
import type { Runtime, RuntimeEvent } from "../../../src/runtime/runtime.js";
import type { ContainerStatus } from "../../../src/state/container.js";

const SANDBOX = "a".repeat(64) as SandboxId;
const CONTAINER = "b".repeat(64) as ContainerId;
const IMAGE = `sha256:${"c".repeat(64)}` as Digest;

test("getContainerEvents of what happened before shows each state as it was at its event, and the image's name of then", async () => {
  let shown: ContainerStatus[] = [];
  let image: ImageRecord | undefined = { repoTags: [], repoDigests: ["r.test/of@d"] } as unknown as ImageRecord;
  let tell: (event: RuntimeEvent) => void = () => undefined;
  const runtime = {
    listSandboxes: () => [],
    listContainers: () => shown,
    subscribe: (listener: typeof tell) => (tell = listener),
  } as unknown as Runtime;
  const verbs = eventVerbs(runtime, { resolve: () => image });
  const ofContainer = { sandboxId: SANDBOX, containerId: CONTAINER, owner: "cri" } as const;

  shown = [statusOf("created")];
  tell({ type: "container-created", ...ofContainer });
  shown = [statusOf("running")];
  tell({ type: "container-started", ...ofContainer });
  shown = [];
  image = undefined;
  tell({ type: "container-removed", ...ofContainer });
  tell({ type: "container-removed", ...ofContainer, owner: "pod" });

  const received = await take(verbs.getContainerEvents?.({}, { signal: new AbortController().signal }), 3);
  expect(received.map(({ containerEventType }) => containerEventType)).toEqual([
    ContainerEventType.CONTAINER_CREATED_EVENT,
    ContainerEventType.CONTAINER_STARTED_EVENT,
    ContainerEventType.CONTAINER_DELETED_EVENT,
  ]);
  expect(
    received.map(({ containersStatuses }) => containersStatuses.map(({ state, imageRef }) => [state, imageRef])),
  ).toEqual([
    [[ContainerState.CONTAINER_CREATED, "r.test/of@d"]],
    [[ContainerState.CONTAINER_RUNNING, "r.test/of@d"]],
    [],
  ]);
  const times = received.map(({ createdAt }) => createdAt);
  expect(times).toEqual(times.toSorted((a, b) => Number(a - b)));
});

async function take(stream: unknown, count: number): Promise<ContainerEventResponse[]> {
  const taken: ContainerEventResponse[] = [];
  for await (const event of stream as AsyncIterable<ContainerEventResponse>) {
    taken.push(event);
    if (taken.length === count) break;
  }
  return taken;
}

function statusOf(state: "created" | "running"): ContainerStatus {
  return {
    id: CONTAINER,
    sandboxId: SANDBOX,
    state,
    createdAtNs: "1",
    startedAtNs: "2",
    imageId: IMAGE,
    stopSignal: "SIGTERM",
    config: {
      metadata: { name: "main", attempt: 0 },
      image: "r.test/of:1",
      labels: {},
      annotations: {},
      mounts: [],
      resources: {},
    },
  } as unknown as ContainerStatus;
}
