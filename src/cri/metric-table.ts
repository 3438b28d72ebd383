/**
 * The metrics of containers and sandboxes: cAdvisor's names, what each means, and where its values are.
 *
 * A metric whose value nobody knows has none: never a made-up zero. CRI's values are whole numbers, so what
 * is named after seconds is in whole seconds.
 *
 * Of what a kubelet's cAdvisor has without being asked, not here: load averages (container_cpu_load_*), which
 * it counts by watching threads, and figures that only whole disks have (container_fs_io_*, *_merged_total,
 * sector_*_total, read and write seconds).
 */
import type { FigureOrigins } from "../runtime/figure-sources.js";
import type { CgroupFigures, ContainerFigures, SandboxFigures } from "../runtime/figures.js";
import type { ContainerStatus } from "../state/container.js";

/** One value, with those of the metric's own labels. */
export interface Sample {
  readonly labels: readonly string[];
  readonly value: bigint;
}

export interface MetricSpec<Subject> {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge";
  /** Beyond those that all have. */
  readonly labelKeys: readonly string[];
  /** Whose origin differs between hosts; `undefined`: the same on all. */
  readonly figure?: keyof FigureOrigins;
  values(subject: Subject): readonly Sample[];
}

export interface ContainerSubject {
  readonly container: ContainerStatus;
  readonly figures: ContainerFigures;
}

type Maybe = bigint | number | undefined;

function metric<Subject>(
  type: "counter" | "gauge",
  name: string,
  help: string,
  value: (subject: Subject) => Maybe,
): MetricSpec<Subject> {
  return { name, help, type, labelKeys: [], values: (subject) => sample([], value(subject)) };
}

function labelled<Subject>(
  type: "counter" | "gauge",
  name: string,
  help: string,
  labelKeys: readonly string[],
  values: (subject: Subject) => readonly (readonly [readonly string[], Maybe])[],
): MetricSpec<Subject> {
  return {
    name,
    help,
    type,
    labelKeys,
    values: (subject) => values(subject).flatMap(([labels, value]) => sample(labels, value)),
  };
}

function sample(labels: readonly string[], value: Maybe): Sample[] {
  return value === undefined ? [] : [{ labels, value: BigInt(value) }];
}

/** Metrics whose origin depends on the host. */
function of<Subject>(figure: keyof FigureOrigins, ...specs: readonly MetricSpec<Subject>[]): MetricSpec<Subject>[] {
  return specs.map((spec) => ({ ...spec, figure }));
}

const seconds = (us: bigint | undefined): bigint | undefined => (us === undefined ? undefined : us / 1_000_000n);

const LIMIT_METRICS: readonly MetricSpec<CgroupFigures>[] = [
  ...of<CgroupFigures>(
    "throttling",
    metric("counter", "container_cpu_cfs_periods_total", "Elapsed enforcement periods.", ({ cpu }) => cpu.periods),
    metric(
      "counter",
      "container_cpu_cfs_throttled_periods_total",
      "Throttled periods.",
      ({ cpu }) => cpu.throttledPeriods,
    ),
    metric("counter", "container_cpu_cfs_throttled_seconds_total", "Time that was throttled.", ({ cpu }) =>
      seconds(cpu.throttledUs),
    ),
  ),
  ...of<CgroupFigures>(
    "limitHits",
    metric("counter", "container_memory_failcnt", "Memory usage hits of limits.", ({ memory }) => memory.limitHits),
    metric("counter", "container_oom_events_total", "Out of memory kills.", ({ memory }) => memory.oomKills),
  ),
];

const MEMORY_METRICS: readonly MetricSpec<CgroupFigures>[] = [
  ...of<CgroupFigures>(
    "memory",
    metric("gauge", "container_memory_usage_bytes", "Current memory usage.", ({ usage }) => usage.memory.usageBytes),
    metric(
      "gauge",
      "container_memory_working_set_bytes",
      "Current working set.",
      ({ usage }) => usage.memory.workingSetBytes,
    ),
    metric("gauge", "container_memory_rss", "Size of RSS.", ({ usage }) => usage.memory.rssBytes),
    metric("gauge", "container_memory_cache", "Page cache.", ({ memory }) => memory.cacheBytes),
    metric("gauge", "container_memory_mapped_file", "Size of mapped files.", ({ memory }) => memory.mappedFileBytes),
    metric("gauge", "container_memory_swap", "Swap usage.", ({ memory }) => memory.swapBytes),
    metric(
      "gauge",
      "container_memory_max_usage_bytes",
      "Maximum memory usage recorded.",
      ({ memory }) => memory.peakBytes,
    ),
    metric(
      "gauge",
      "container_memory_kernel_usage",
      "Kernel memory; of processes: their page tables.",
      ({ memory }) => memory.kernelBytes,
    ),
    labelled(
      "counter",
      "container_memory_failures_total",
      "Page faults.",
      ["failure_type", "scope"],
      ({ usage: { memory } }) => [
        [["pgfault", "hierarchy"], memory.pageFaults],
        [["pgmajfault", "hierarchy"], memory.majorPageFaults],
      ],
    ),
  ),
  ...of<CgroupFigures>(
    "cacheActivity",
    metric(
      "gauge",
      "container_memory_total_active_file_bytes",
      "Active file cache.",
      ({ memory }) => memory.activeFileBytes,
    ),
    metric(
      "gauge",
      "container_memory_total_inactive_file_bytes",
      "Inactive file cache.",
      ({ memory }) => memory.inactiveFileBytes,
    ),
  ),
  ...of<CgroupFigures>(
    "hugePages",
    labelled("gauge", "container_hugetlb_usage_bytes", "Current huge page usage.", ["pagesize"], ({ hugePages }) =>
      hugePages.map(({ pageSize, usageBytes }) => [[pageSize], usageBytes] as const),
    ),
    // cgroup v2 keeps no peak of huge pages (kernel cgroup-v2.rst, "HugeTLB Interface Files"), so it has no values.
    labelled("gauge", "container_hugetlb_max_usage_bytes", "Most huge page usage; not known.", ["pagesize"], () => []),
  ),
];

const IO_METRICS: readonly MetricSpec<CgroupFigures>[] = [
  labelled("counter", "container_fs_reads_bytes_total", "Bytes read.", ["device"], ({ devices }) =>
    devices.map(({ device, readBytes }) => [[device], readBytes]),
  ),
  labelled("counter", "container_fs_writes_bytes_total", "Bytes written.", ["device"], ({ devices }) =>
    devices.map(({ device, writtenBytes }) => [[device], writtenBytes]),
  ),
  labelled("counter", "container_fs_reads_total", "Reads completed.", ["device"], ({ devices }) =>
    devices.map(({ device, reads }) => [[device], reads]),
  ),
  labelled("counter", "container_fs_writes_total", "Writes completed.", ["device"], ({ devices }) =>
    devices.map(({ device, writes }) => [[device], writes]),
  ),
  labelled(
    "counter",
    "container_blkio_device_usage_total",
    "Blkio device bytes usage.",
    ["device", "major", "minor", "operation"],
    ({ devices }) =>
      devices.flatMap(({ device, readBytes, writtenBytes }) => {
        const [major = "", minor = ""] = device.split(":");
        return [
          [[device, major, minor, "Read"], readBytes],
          [[device, major, minor, "Write"], writtenBytes],
        ] as const;
      }),
  ),
];

/** Of a cgroup: containers have them, and sandboxes as the sum. */
const OF_CGROUPS: readonly MetricSpec<CgroupFigures>[] = [
  labelled("counter", "container_cpu_usage_seconds_total", "Cumulative cpu time consumed.", ["cpu"], ({ usage }) => [
    [["total"], usage.cpuNs / 1_000_000_000n],
  ]),
  metric("counter", "container_cpu_user_seconds_total", "Cumulative user cpu time consumed.", ({ cpu }) =>
    seconds(cpu.userUs),
  ),
  metric("counter", "container_cpu_system_seconds_total", "Cumulative system cpu time consumed.", ({ cpu }) =>
    seconds(cpu.systemUs),
  ),
  ...LIMIT_METRICS,
  ...MEMORY_METRICS,
  ...of("io", ...IO_METRICS),
  metric("gauge", "container_processes", "Processes running.", ({ usage }) => usage.processCount),
  metric("gauge", "container_threads", "Threads running.", ({ processes }) => processes.threads),
  metric("gauge", "container_threads_max", "Maximum number of threads; 0: no limit.", ({ threadsMax }) => threadsMax),
  metric("gauge", "container_file_descriptors", "Open file descriptors.", ({ processes }) => processes.fileDescriptors),
  metric("gauge", "container_sockets", "Open sockets.", ({ processes }) => processes.sockets),
  labelled("gauge", "container_tasks_state", "Tasks in a state.", ["state"], ({ processes }) =>
    Object.entries(processes.states).map(([state, count]) => [[state], count] as const),
  ),
  ...(["cpu", "memory", "io"] as const).flatMap((resource): MetricSpec<CgroupFigures>[] => {
    const of = ({ usage }: CgroupFigures) =>
      ({ cpu: usage.cpuPressure, memory: usage.memoryPressure, io: usage.ioPressure })[resource];
    return [
      metric(
        "counter",
        `container_pressure_${resource}_waiting_seconds_total`,
        `Time in which some tasks waited for ${resource}.`,
        (figures) => seconds(of(figures)?.some.totalUs),
      ),
      metric(
        "counter",
        `container_pressure_${resource}_stalled_seconds_total`,
        `Time in which all tasks waited for ${resource}.`,
        (figures) => seconds(of(figures)?.full.totalUs),
      ),
    ];
  }),
];

const OF_CONTAINERS_ALONE: readonly MetricSpec<ContainerSubject>[] = [
  metric("gauge", "container_start_time_seconds", "Start time since the Unix epoch.", ({ container }) =>
    container.startedAtNs === undefined ? undefined : BigInt(container.startedAtNs) / 1_000_000_000n,
  ),
  metric(
    "gauge",
    "container_last_seen",
    "When the container was last seen.",
    ({ figures }) => figures.usage.atNs / 1_000_000_000n,
  ),
  labelled("gauge", "container_fs_usage_bytes", "Size of the writable layer.", ["device"], ({ figures }) => [
    [[""], figures.usage.layer.usedBytes],
  ]),
  labelled("gauge", "container_fs_limit_bytes", "Size of its file system.", ["device"], ({ figures }) => [
    [[""], figures.fileSystem.sizeBytes],
  ]),
  labelled("gauge", "container_fs_inodes_total", "Inodes of its file system.", ["device"], ({ figures }) => [
    [[""], figures.fileSystem.inodes],
  ]),
  labelled("gauge", "container_fs_inodes_free", "Free inodes of its file system.", ["device"], ({ figures }) => [
    [[""], figures.fileSystem.freeInodes],
  ]),
  labelled("gauge", "container_ulimits_soft", "Soft limits of the first process.", ["ulimit"], ({ figures }) => [
    [["max_open_files"], figures.openFilesLimit],
  ]),
  metric(
    "gauge",
    "container_spec_cpu_period",
    "CPU period.",
    ({ container }) => container.config.resources.cpuPeriodUs,
  ),
  metric("gauge", "container_spec_cpu_quota", "CPU quota.", ({ container }) => container.config.resources.cpuQuotaUs),
  metric("gauge", "container_spec_cpu_shares", "CPU shares.", ({ container }) => container.config.resources.cpuShares),
  metric(
    "gauge",
    "container_spec_memory_limit_bytes",
    "Memory limit; 0: none.",
    ({ container }) => container.config.resources.memoryLimitBytes ?? 0,
  ),
  metric(
    "gauge",
    "container_spec_memory_swap_limit_bytes",
    "Limit of memory and swap; 0: none.",
    ({ container }) => container.config.resources.memorySwapLimitBytes ?? 0,
  ),
  metric("gauge", "container_spec_memory_reservation_limit_bytes", "Memory reservation; 0: none.", ({ container }) => {
    const low = container.config.resources.unified?.["memory.low"] ?? "0";
    return /^\d+$/.test(low) ? BigInt(low) : undefined;
  }),
];

const OF_SANDBOXES_ALONE: readonly MetricSpec<SandboxFigures>[] = (
  [
    ["receive_bytes", "Bytes received.", "rxBytes"],
    ["receive_packets", "Packets received.", "rxPackets"],
    ["receive_packets_dropped", "Packets dropped while receiving.", "rxDropped"],
    ["receive_errors", "Errors while receiving.", "rxErrors"],
    ["transmit_bytes", "Bytes transmitted.", "txBytes"],
    ["transmit_packets", "Packets transmitted.", "txPackets"],
    ["transmit_packets_dropped", "Packets dropped while transmitting.", "txDropped"],
    ["transmit_errors", "Errors while transmitting.", "txErrors"],
  ] as const
).map(([name, help, key]) =>
  labelled("counter", `container_network_${name}_total`, help, ["interface"], ({ interfaces }) =>
    interfaces.map((link) => [[link.name], link[key]] as const),
  ),
);

export const CONTAINER_METRICS: readonly MetricSpec<ContainerSubject>[] = [
  ...OF_CGROUPS.map((spec) => ({ ...spec, values: ({ figures }: ContainerSubject) => spec.values(figures) })),
  ...OF_CONTAINERS_ALONE,
];

export const SANDBOX_METRICS: readonly MetricSpec<SandboxFigures>[] = [...OF_CGROUPS, ...OF_SANDBOXES_ALONE];
