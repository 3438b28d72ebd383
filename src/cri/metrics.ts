/**
 * ListMetricDescriptors and the metrics of pods: what a kubelet serves at /metrics/cadvisor.
 */
import type { FigureOrigin, FigureOrigins } from "../runtime/figure-sources.js";
import type { Runtime } from "../runtime/runtime.js";
import type { ContainerStatus } from "../state/container.js";
import type { SandboxStatus } from "../state/sandbox.js";
import { inBatches } from "./batches.js";
import { type Metric, type MetricDescriptor, MetricType, type PodSandboxMetrics } from "./generated/runtime/v1/api.js";
import { CONTAINER_METRICS, type MetricSpec, SANDBOX_METRICS } from "./metric-table.js";
import type { Verbs } from "./verbs.js";

/** That every metric has, in this order, before its own: cAdvisor's, as a kubelet shows them. */
const BASE_LABEL_KEYS = ["container", "id", "image", "name", "namespace", "pod"];

/** Told with what is not of the cgroup itself; the metrics of `nowhere` have no descriptor. */
const SOURCE_IN_WORDS: Readonly<Record<FigureOrigin, string>> = {
  cgroup: "",
  processes: " Of the processes that run now.",
  "cgroup-v1-group": " Of the whole cgroup v1 group that the processes are in.",
  nowhere: "",
};

export function metricVerbs(runtime: Runtime, origins: FigureOrigins): Verbs {
  const all = () => podMetrics(runtime);
  const descriptors = metricDescriptors(origins);
  return {
    listMetricDescriptors: () => ({ descriptors }),
    listPodSandboxMetrics: async () => ({ podMetrics: await all() }),
    streamPodSandboxMetrics: async function* () {
      for (const podSandboxMetrics of inBatches(await all())) yield { podSandboxMetrics };
    },
  };
}

/** "for the metrics that will be returned" (CRI's api.proto, ListMetricDescriptors): what this host does not have is not listed. */
export function metricDescriptors(origins: FigureOrigins): MetricDescriptor[] {
  const specs = [...CONTAINER_METRICS, ...SANDBOX_METRICS].flatMap(({ name, help, labelKeys, figure }) => {
    const origin = figure === undefined ? "cgroup" : origins[figure];
    const told = { name, help: `${help}${SOURCE_IN_WORDS[origin]}`, labelKeys: [...BASE_LABEL_KEYS, ...labelKeys] };
    return origin === "nowhere" ? [] : [told];
  });
  return [...new Map(specs.map((spec) => [spec.name, spec])).values()];
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
