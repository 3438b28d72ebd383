/**
 * What pods use now, of those that the API made: `GET /minke/v1/stats`. Figures since their start; whoever
 * wants rates asks twice.
 */
import type { ServerResponse } from "node:http";
import type { PodEngine } from "../pod/engine.js";
import type { Runtime } from "../runtime/runtime.js";
import type { CgroupUsage } from "../runtime/usage.js";
import type { SandboxStatus } from "../state/sandbox.js";
import { type ApiRequest, answer } from "./request.js";

/** Numbers are decimal strings: nanoseconds do not fit a JSON number. */
interface UsageJson {
  /** Unix ns: when these were read. */
  readonly atNs: string;
  readonly cpuNs: string;
  readonly workingSetBytes: string;
  /** Absent: none. */
  readonly memoryLimitBytes?: string | undefined;
  readonly swapBytes?: string | undefined;
  readonly processes: number;
}

export interface ContainerStatsJson extends UsageJson {
  readonly name: string;
  /** Of the writable layer. */
  readonly layerBytes: string;
}

export interface PodStatsJson extends UsageJson {
  readonly metadata: { readonly name: string; readonly namespace: string; readonly uid: string };
  readonly interfaces: readonly { readonly name: string; readonly rxBytes: string; readonly txBytes: string }[];
  readonly containers: readonly ContainerStatsJson[];
}

export type StatsRuntime = Pick<Runtime, "listSandboxes" | "listContainers" | "sandboxUsage" | "containerUsage">;

/** @throws RuntimeError `not-found` POD_NOT_FOUND for a name that no pod has; one that does not run has no figures */
export async function listStats(
  engine: Pick<PodEngine, "get">,
  runtime: StatsRuntime,
  { query }: ApiRequest,
  response: ServerResponse,
): Promise<void> {
  const [namespace, name] = [query.get("namespace") ?? undefined, query.get("name") ?? undefined];
  if (name !== undefined) engine.get(namespace ?? "default", name);
  const sandboxes = runtime.listSandboxes("pod").filter(({ state, config: { metadata } }) => {
    const isAsked = (asked: string | undefined, has: string) => asked === undefined || asked === has;
    return state === "ready" && isAsked(namespace, metadata.namespace) && isAsked(name, metadata.name);
  });
  answer(response, 200, { items: await present(sandboxes.map((sandbox) => podStats(runtime, sandbox))) });
}

async function podStats(runtime: StatsRuntime, sandbox: SandboxStatus): Promise<PodStatsJson> {
  const running = runtime.listContainers("pod", sandbox.id).filter(({ state }) => state === "running");
  const [usage, containers] = await Promise.all([
    runtime.sandboxUsage(sandbox.id),
    present(
      running.map(async ({ id, config }): Promise<ContainerStatsJson> => {
        const own = await runtime.containerUsage(id);
        return { name: config.metadata.name, ...toJson(own), layerBytes: String(own.layer.usedBytes) };
      }),
    ),
  ]);
  const { name, namespace, uid } = sandbox.config.metadata;
  return {
    metadata: { name, namespace, uid },
    ...toJson(usage),
    interfaces: usage.interfaces.map((link) => ({
      name: link.name,
      rxBytes: String(link.rxBytes),
      txBytes: String(link.txBytes),
    })),
    containers,
  };
}

function toJson({ atNs, cpuNs, memory, processCount }: CgroupUsage): UsageJson {
  return {
    atNs: String(atNs),
    cpuNs: String(cpuNs),
    workingSetBytes: String(memory.workingSetBytes),
    ...(memory.limitBytes !== undefined && { memoryLimitBytes: String(memory.limitBytes) }),
    ...(memory.swapBytes !== undefined && { swapBytes: String(memory.swapBytes) }),
    processes: Number(processCount),
  };
}

/** What went away meanwhile is left out. */
async function present<T>(parts: readonly Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(parts);
  return outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
}
