/**
 * What a new plugin is told of all that there is, in messages of a size that it can take.
 */
import { SynchronizeRequest } from "./generated/nri/v1alpha1/nri.js";

/** Of one message: well below what ttrpc takes. */
const MESSAGE_BYTES = 2 * 1024 * 1024;

/** Pods, then containers; at least one message, and each says whether there are more. */
export function synchronizeRequests(pods: SynchronizeRequest["pods"], containers: SynchronizeRequest["containers"]) {
  const chunks: SynchronizeRequest[] = [{ pods: [], containers: [], more: false }];
  let size = 0;
  const add = (part: Partial<SynchronizeRequest>) => {
    const whole = SynchronizeRequest.fromPartial(part);
    const bytes = SynchronizeRequest.encode(whole).finish().length;
    if (size > 0 && size + bytes > MESSAGE_BYTES) {
      chunks.push({ pods: [], containers: [], more: false });
      size = 0;
    }
    const chunk = chunks.at(-1);
    chunk?.pods.push(...whole.pods);
    chunk?.containers.push(...whole.containers);
    size += bytes;
  };
  for (const pod of pods) add({ pods: [pod] });
  for (const container of containers) add({ containers: [container] });
  for (const chunk of chunks.slice(0, -1)) chunk.more = true;
  return chunks;
}
