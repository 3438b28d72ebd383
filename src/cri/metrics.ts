/**
 * ListMetricDescriptors and the metrics of pods: what a kubelet serves at /metrics/cadvisor.
 */
import type { Runtime } from "../runtime/runtime.js";
import type { ContainerStatus } from "../state/container.js";
import type { SandboxStatus } from "../state/sandbox.js";
import { inBatches } from "./batches.js";
import { type Metric, MetricType, type PodSandboxMetrics } from "./generated/runtime/v1/api.js";
import { CONTAINER_METRICS, type MetricSpec, SANDBOX_METRICS } from "./metric-table.js";
import type { Verbs } from "./verbs.js";

/** That every metric has, in this order, before its own: cAdvisor's, as a kubelet shows them. */
const BASE_LABEL_KEYS = ["container", "id", "image", "name", "namespace", "pod"];

export function metricVerbs(runtime: Runtime): Verbs {
  const all = () => podMetrics(runtime);
  return {
    listMetricDescriptors: () => ({
      descriptors: [
        ...new Map(
          [...CONTAINER_METRICS, ...SANDBOX_METRICS].map(({ name, help, labelKeys }) => [
            name,
            { name, help, labelKeys: [...BASE_LABEL_KEYS, ...labelKeys] },
          ]),
        ).values(),
      ],
    }),
    listPodSandboxMetrics: async () => ({ podMetrics: await all() }),
    streamPodSandboxMetrics: async function* () {
      for (const podSandboxMetrics of inBatches(await all())) yield { podSandboxMetrics };
    },
  };
}

/** Of what is there; a pod that goes away meanwhile is left out. */
async function podMetrics(runtime: Runtime): Promise<PodSandboxMetrics[]> {
  const ready = runtime.listSandboxes("cri").filter(({ state }) => state === "ready");
  const outcomes = await Promise.allSettled(ready.map((sandbox) => metricsOf(runtime, sandbox)));
  return outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
}

async function metricsOf(runtime: Runtime, sandbox: SandboxStatus): Promise<PodSandboxMetrics> {
  const running = runtime.listContainers("cri", sandbox.id).filter(({ state }) => state === "running");
  const [figures, containers] = await Promise.all([
    runtime.sandboxFigures(sandbox.id),
    Promise.allSettled(
      running.map(async (container) => {
        const subject = { container, figures: await runtime.containerFigures(container.id) };
        const labels = baseLabels(sandbox, container);
        return {
          containerId: container.id,
          metrics: toMetrics(CONTAINER_METRICS, subject, subject.figures.usage.atNs, labels),
        };
      }),
    ),
  ]);
  return {
    podSandboxId: sandbox.id,
    metrics: toMetrics(SANDBOX_METRICS, figures, figures.usage.atNs, baseLabels(sandbox)),
    containerMetrics: containers.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : [])),
  };
}

/** A sandbox's own have an empty container name, as the pod's cgroup has in cAdvisor. */
function baseLabels({ id, config: { metadata } }: SandboxStatus, container?: ContainerStatus): string[] {
  const { name = "", image = "" } = container
    ? { name: container.config.metadata.name, image: container.config.image }
    : {};
  return [name, container?.id ?? id, image, container?.id ?? id, metadata.namespace, metadata.name];
}

function toMetrics<Subject>(
  specs: readonly MetricSpec<Subject>[],
  subject: Subject,
  timestamp: bigint,
  labels: readonly string[],
): Metric[] {
  return specs.flatMap((spec) =>
    spec.values(subject).map(({ labels: own, value }) => ({
      name: spec.name,
      timestamp,
      metricType: spec.type === "counter" ? MetricType.COUNTER : MetricType.GAUGE,
      labelValues: [...labels, ...own],
      value: { value },
    })),
  );
}
