/**
 * Host ports that two pods want: the second one is refused at once, as a scheduler would.
 */
import { RuntimeError } from "../base/errors.js";
import { portMappings } from "./convert.js";
import type { Pod } from "./manifest/defaults.js";
import type { PodRecord } from "./record.js";

/**
 * @param others all pods there are; those that have ended hold no port any more
 * @throws RuntimeError `failed-precondition` HOST_PORT_IN_USE
 */
export function checkHostPorts(pod: Pod, others: readonly PodRecord[]): void {
  const wanted = hostPorts(pod);
  if (wanted.length === 0) return;
  for (const record of others) {
    if (record.end) continue;
    for (const taken of hostPorts(record.pod)) {
      const clash = wanted.find(
        (port) =>
          port.hostPort === taken.hostPort &&
          port.protocol === taken.protocol &&
          (port.hostIp === taken.hostIp || !port.hostIp || !taken.hostIp),
      );
      if (!clash) continue;
      const holder = `${record.pod.metadata.namespace}/${record.pod.metadata.name}`;
      throw new RuntimeError(
        `pod "${pod.metadata.name}": host port ${clash.hostPort}/${clash.protocol} is used by pod "${holder}"`,
        { kind: "failed-precondition", code: "HOST_PORT_IN_USE" },
      );
    }
  }
}

function hostPorts(pod: Pod) {
  return portMappings(pod).filter(({ hostPort }) => hostPort > 0);
}
