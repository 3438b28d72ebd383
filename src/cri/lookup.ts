/**
 * Ids of requests -> objects that CRI made. A prefix that fits one object names it, as crictl expects;
 * what the pod engine made does not exist here.
 */
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import { type ContainerId, isLongId, type SandboxId } from "../base/ids.js";
import type { Runtime } from "../runtime/runtime.js";
import type { ContainerStatus } from "../state/container.js";
import type { SandboxStatus } from "../state/sandbox.js";
import { invalidField } from "./convert/fields.js";

/** The sandbox of an id or prefix, `undefined` where there is none. */
export function findSandbox(runtime: Runtime, id: string): SandboxStatus | undefined {
  if (id === "") throw invalidField("pod_sandbox_id", "is empty");
  const exact = isLongId(id) ? known(() => runtime.sandboxStatus(id as SandboxId)) : undefined;
  if (exact?.config.owner === "cri") return exact;
  return onlyOne(runtime.listSandboxes("cri"), id);
}

/** @throws RuntimeError `not-found` SANDBOX_NOT_FOUND */
export function requireSandbox(runtime: Runtime, id: string): SandboxStatus {
  const found = findSandbox(runtime, id);
  if (found) return found;
  throw new RuntimeError(`sandbox "${id}": no sandbox has this id`, { kind: "not-found", code: "SANDBOX_NOT_FOUND" });
}

/** The container of an id or prefix, `undefined` where there is none. */
export function findContainer(runtime: Runtime, id: string): ContainerStatus | undefined {
  if (id === "") throw invalidField("container_id", "is empty");
  const exact = isLongId(id) ? known(() => runtime.containerStatus(id as ContainerId)) : undefined;
  if (exact?.config.owner === "cri") return exact;
  return onlyOne(runtime.listContainers("cri"), id);
}

/** @throws RuntimeError `not-found` CONTAINER_NOT_FOUND */
export function requireContainer(runtime: Runtime, id: string): ContainerStatus {
  const found = findContainer(runtime, id);
  if (found) return found;
  throw new RuntimeError(`container "${id}": no container has this id`, {
    kind: "not-found",
    code: "CONTAINER_NOT_FOUND",
  });
}

/** A whole id is looked up; only a prefix has to be compared with all of them. */
function known<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (err) {
    if (toRuntimeError(err).kind === "not-found") return undefined;
    throw err;
  }
}

function onlyOne<T extends { readonly id: SandboxId | ContainerId }>(all: readonly T[], id: string): T | undefined {
  const [first, ...more] = all.filter((item) => item.id.startsWith(id));
  if (more.length === 0) return first;
  throw new RuntimeError(`id "${id}" fits ${more.length + 1} objects; give more of it`, {
    kind: "invalid-argument",
    code: "AMBIGUOUS_ID",
  });
}

/** True where an object has all labels of a selector with these values. */
export function hasLabels(
  labels: Readonly<Record<string, string>>,
  selector: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(selector).every(([name, value]) => Object.hasOwn(labels, name) && labels[name] === value);
}
