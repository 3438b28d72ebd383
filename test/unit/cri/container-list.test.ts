import { expect, test } from "vitest";
import type { Digest } from "../../../src/base/ids.js";
import { containerVerbs } from "../../../src/cri/containers.js";
import type { ListContainersResponse } from "../../../src/cri/generated/runtime/v1/api.js";
import type { ImageRecord } from "../../../src/image/image-record.js";
import type { Runtime } from "../../../src/runtime/runtime.js";
import type { ContainerStatus } from "../../../src/state/container.js";

const digest = (digit: string) => `sha256:${digit.repeat(64)}` as Digest;

test("listContainers of many containers looks for each image once, and shows each its own", async () => {
  const imageIds = [digest("a"), digest("b"), digest("c")];
  const statuses = Array.from({ length: 30 }, (_, i) => statusOf(i, imageIds[i % imageIds.length] ?? digest("d")));
  const asked: string[] = [];
  const verbs = containerVerbs({ listContainers: () => statuses } as unknown as Runtime, {
    resolve: (name) => {
      asked.push(name);
      // The third has been removed since.
      return name === digest("c")
        ? undefined
        : ({ repoDigests: [`registry.test/of@${name}`] } as unknown as ImageRecord);
    },
  });

  const { signal } = new AbortController();
  const answer = (await verbs.listContainers?.({ filter: undefined }, { signal })) as ListContainersResponse;

  expect(asked.sort()).toEqual(imageIds);
  expect(answer.containers.slice(0, 4).map(({ imageRef }) => imageRef)).toEqual([
    `registry.test/of@${digest("a")}`,
    `registry.test/of@${digest("b")}`,
    digest("c"),
    `registry.test/of@${digest("a")}`,
  ]);
});

function statusOf(index: number, imageId: Digest): ContainerStatus {
  return {
    id: String(index).padStart(64, "0"),
    sandboxId: "0".repeat(64),
    state: "running",
    createdAtNs: "1",
    imageId,
    config: { metadata: { name: "main", attempt: 0 }, image: "registry.test/of:1", labels: {}, annotations: {} },
  } as unknown as ContainerStatus;
}
