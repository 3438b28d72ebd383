/** What CRI tells of use: metrics, stats and events, against the whole daemon. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { beforeAll, describe, expect, test } from "vitest";
import {
  ContainerEventType,
  ContainerState,
  MetricType,
  NamespaceMode,
} from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { cgroup2Mount, missing } from "../harness/requires.js";

const METRICS_SOCKET = `/run/minke-metrics-${process.pid}.sock`;
const bench = useCriDaemon({ tables: `[metrics]\nsocket = "${METRICS_SOCKET}"` });
const lacking = missing("root", "cgroup2", "overlayfs");
let pod: string;
let container: string;

beforeAll(async () => {
  if (lacking) return;
  pod = await bench.sharedSandbox();
  container = await bench.cri.startContainer(pod, {
    metadata: { name: "busy", attempt: 0 },
    linux: { resources: { cpuShares: 512n } },
    command: ["sh", "-c", "dd if=/dev/zero of=/tmp-file bs=1k count=300; exec 9<>/dev/null; while :; do :; done"],
  });
});

/** By name and its own labels, joined: `container_tasks_state sleeping`. */
async function metrics() {
  const [{ descriptors }, { podMetrics }] = await Promise.all([
    bench.cri.call("listMetricDescriptors"),
    bench.cri.call("listPodSandboxMetrics"),
  ]);
  const keys = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys]));
  const own = podMetrics.find(({ podSandboxId }) => podSandboxId === pod);
  const ofContainer = own?.containerMetrics.find(({ containerId }) => containerId === container);
  const named = (
    list: readonly { name: string; labelValues: readonly string[]; value?: { value: bigint } | undefined }[] = [],
  ) =>
    new Map(
      list.map(({ name, labelValues, value }) => [[name, ...labelValues.slice(6)].join(" "), Number(value?.value)]),
    );
  return { descriptors, keys, own, ofContainer, pod: named(own?.metrics), container: named(ofContainer?.metrics) };
}

/** The v1 group of this process, and so of the daemon and its containers; `undefined` where v1 has no such controller. */
function v1Dir(controller: string): string | undefined {
  const mount = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .find((fields) => fields.includes("cgroup") && fields.at(-1)?.split(",").includes(controller));
  const group = new RegExp(`^\\d+:(?:[^:]*,)?${controller}(?:,[^:]*)?:(.*)$`, "m").exec(
    readFileSync("/proc/self/cgroup", "utf8"),
  );
  return mount?.[4] && group?.[1] && join(mount[4], group[1]);
}

describe("metrics", () => {
  test("have a descriptor each, with as many keys as they have label values", async () => {
    const { keys, own, ofContainer } = await metrics();
    const all = [...(own?.metrics ?? []), ...(ofContainer?.metrics ?? [])];
    expect(all.length).toBeGreaterThan(60);
    for (const { name, labelValues } of all) expect([name, labelValues.length]).toEqual([name, keys.get(name)?.length]);
    expect(new Set(keys.keys()).size).toBe(keys.size);
    expect(ofContainer?.metrics[0]?.labelValues.slice(0, 6)).toEqual([
      "busy",
      container,
      "minke.test/busybox:1",
      container,
      "test",
      expect.stringMatching(/^cri-/),
    ]);
  });

  test("are real: what a busy container does is what they say", async () => {
    await expect
      .poll(async () => (await metrics()).container.get("container_cpu_usage_seconds_total total"), {
        timeout: 20_000,
        interval: 500,
      })
      .toBeGreaterThanOrEqual(1);
    // A layer's size is believed for a while: it may have been looked at while it was written.
    await expect
      .poll(async () => (await metrics()).container.get("container_fs_usage_bytes "), {
        timeout: 90_000,
        interval: 500,
      })
      .toBeGreaterThanOrEqual(300 * 1024);
    const { container: values, pod: podValues, ofContainer } = await metrics();
    const value = (name: string) => values.get(name) ?? Number.NaN;
    expect(value("container_processes")).toBe(1);
    expect(value("container_threads")).toBe(1);
    expect(value("container_tasks_state running") + value("container_tasks_state sleeping")).toBe(1);
    expect(value("container_file_descriptors")).toBeGreaterThanOrEqual(4);
    expect(value("container_memory_working_set_bytes")).toBeGreaterThan(100_000);
    expect(value("container_memory_max_usage_bytes")).toBeGreaterThan(100_000);
    expect(value("container_memory_failures_total pgfault hierarchy")).toBeGreaterThan(10);
    expect(value("container_spec_cpu_shares")).toBe(512);
    expect(value("container_ulimits_soft max_open_files")).toBeGreaterThan(100);
    expect(Math.abs(value("container_start_time_seconds") - Date.now() / 1000)).toBeLessThan(100);
    expect(podValues.get("container_cpu_usage_seconds_total total")).toBeGreaterThanOrEqual(
      value("container_cpu_usage_seconds_total total") - 1,
    );
    expect(ofContainer?.metrics.find(({ name }) => name === "container_cpu_usage_seconds_total")?.metricType).toBe(
      MetricType.COUNTER,
    );
  });

  test("of a pod's interface grow with what goes over it", async () => {
    await bench.cri
      .output(container, "ping", "-c", "3", "-i", "0.1", `${bench.daemon.network4}.1`)
      .catch(() => undefined);
    const { pod: values } = await metrics();
    expect(values.get("container_network_transmit_packets_total eth0")).toBeGreaterThanOrEqual(1);
    expect(values.get("container_network_transmit_bytes_total eth0")).toBeGreaterThanOrEqual(60);
  });

  test("whose controller is not there are of the processes or their v1 groups, and Status says which", async () => {
    const { info } = await bench.cri.call("status", { verbose: true });
    const { figuresFrom } = JSON.parse(info["config"] ?? "{}") as { figuresFrom: Record<string, string> };
    const hasMemory = missing("controller:memory") === undefined;
    expect(figuresFrom["memory"]).toBe(hasMemory ? "cgroup" : "processes");
    const { container: values, keys } = await metrics();
    expect(values.get("container_memory_kernel_usage")).toBeGreaterThan(0);
    expect(keys.has("container_memory_total_active_file_bytes")).toBe(hasMemory);
    for (const [figure, controller, ...names] of [
      ["throttling", "cpu", "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_seconds_total"],
      ["limitHits", "memory", "container_memory_failcnt", "container_oom_events_total"],
    ] as const) {
      const v1 = v1Dir(controller);
      const otherwise = v1 === undefined ? "nowhere" : "cgroup-v1-group";
      expect(figuresFrom[figure]).toBe(missing(`controller:${controller}`) === undefined ? "cgroup" : otherwise);
      for (const name of names) expect([name, values.has(name)]).toEqual([name, figuresFrom[figure] !== "nowhere"]);
    }
    if (figuresFrom["limitHits"] === "cgroup-v1-group") {
      const hits = () => Number(readFileSync(join(v1Dir("memory") ?? "", "memory.failcnt"), "utf8"));
      const before = hits();
      const told = (await metrics()).container.get("container_memory_failcnt");
      expect(told).toBeGreaterThanOrEqual(before);
      expect(told).toBeLessThanOrEqual(hits());
    }
  });

  test("of huge pages are there by size, as in the container's cgroup, and their peak is not made up", async () => {
    const files = readdirSync(join(cgroup2Mount() ?? "", bench.daemon.cgroupRoot, "pods", pod, container));
    const sizes = files.flatMap((file) => /^hugetlb\.([^.]+)\.current$/.exec(file)?.[1] ?? []);
    const { container: values, keys } = await metrics();
    const told = [...values.keys()].filter((name) => name.startsWith("container_hugetlb_"));
    expect(told.sort()).toEqual(sizes.map((size) => `container_hugetlb_usage_bytes ${size}`).sort());
    expect(keys.has("container_hugetlb_max_usage_bytes")).toBe(sizes.length > 0);
  });

  test("come by stream as by list", async () => {
    const stream = bench.cri.stream("streamPodSandboxMetrics");
    await expect.poll(() => stream.received.length).toBeGreaterThan(0);
    expect(stream.received[0]?.podSandboxMetrics[0]?.podSandboxId).toBe(pod);
    stream.cancel();
  });
});

describe("stats", () => {
  test("of a pod whose containers share processes tell of its own network, not of the host's", async () => {
    const id = await bench.sandbox({
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.POD } } },
    });
    const inside = await bench.cri.startContainer(id);
    const names = (await bench.cri.output(inside, "cat", "/proc/net/dev")).match(/[^\s:]+(?=:)/g) ?? [];
    const { stats } = await bench.cri.call("podSandboxStats", { podSandboxId: id });
    const told = stats?.linux?.network?.interfaces.map(({ name }) => name) ?? [];
    expect(["lo", "eth0", ...told].sort()).toEqual([...names].sort());
  });

  test("of a pod without a running container tell of its network all the same", async () => {
    const id = await bench.sandbox();
    const sentBytes = async () => {
      const { stats } = await bench.cri.call("podSandboxStats", { podSandboxId: id });
      const own = stats?.linux?.network?.defaultInterface;
      return own && { name: own.name, bytes: Number(own.txBytes?.value) };
    };
    expect((await sentBytes())?.name).toBe("eth0");
    const inside = await bench.cri.startContainer(id);
    await bench.cri.output(inside, "ping", "-c", "1", `${bench.daemon.network4}.1`);
    const whileItRan = await sentBytes();
    await bench.cri.call("stopContainer", { containerId: inside });
    const afterwards = await sentBytes();
    expect(whileItRan?.bytes).toBeGreaterThan(60);
    expect(afterwards?.bytes).toBeGreaterThanOrEqual(whileItRan?.bytes ?? Number.NaN);
    await bench.cri.call("stopPodSandbox", { podSandboxId: id });
    expect(await sentBytes()).toBeUndefined();
  });

  test("of container and sandbox are real", async () => {
    const id = await bench.cri.runSandbox();
    const container = await bench.cri.startContainer(id, { command: ["sh", "-c", "while :; do :; done"] });
    // The size of a layer is believed for a while: it is written before anybody asks.
    await bench.cri.output(container, "dd", "if=/dev/zero", "of=/big", "bs=1k", "count=500");
    await bench.cri.output(container, "sh", "-c", "ln /big /same && mkdir -p /deep/er && echo x > /deep/er/file");
    await expect
      .poll(
        async () =>
          Number(
            (await bench.cri.call("containerStats", { containerId: container })).stats?.cpu?.usageNanoCores?.value ??
              0n,
          ),
        { timeout: 10_000, interval: 300 },
      )
      .toBeGreaterThan(50_000_000);
    const { stats } = await bench.cri.call("podSandboxStats", { podSandboxId: id });
    expect(stats?.linux?.network?.defaultInterface?.name).toBe("eth0");
    expect(Number(stats?.linux?.process?.processCount?.value)).toBeGreaterThanOrEqual(1);
    expect(Number(stats?.linux?.memory?.workingSetBytes?.value)).toBeGreaterThan(100_000);
    const upper = join(bench.daemon.root, "containers", container, "upper");
    const du = (...options: string[]) =>
      Number.parseInt(execFileSync("du", ["-s", ...options, upper], { encoding: "utf8" }), 10);
    const differences = async (): Promise<[number, number]> => {
      const { linux } = (await bench.cri.call("podSandboxStats", { podSandboxId: id })).stats ?? {};
      const layer = linux?.containers.find(({ attributes }) => attributes?.id === container)?.writableLayer;
      return [
        Number(layer?.usedBytes?.value) - du("--block-size=1"),
        Number(layer?.inodesUsed?.value) - du("--inodes"),
      ];
    };
    await expect.poll(differences, { timeout: 30_000, interval: 300 }).toEqual([0, 0]);
    await bench.cri.removeSandbox(id);
  });

  test("image file systems are the daemon's own", async () => {
    const { imageFilesystems, containerFilesystems } = await bench.cri.call("imageFsInfo");
    expect(Number(imageFilesystems[0]?.usedBytes?.value)).toBeGreaterThan(1_000_000);
    expect(containerFilesystems).toHaveLength(1);
  });
});

describe("events", () => {
  const typesOf = (received: readonly { containerId: string; containerEventType: number }[], id: string) =>
    received.filter(({ containerId }) => containerId === id).map(({ containerEventType }) => containerEventType);

  test("tell a container's life in order, with the states of the pod, however short it was", async () => {
    const events = bench.cri.stream("getContainerEvents");
    await bench.cri.call("version");
    const id = await bench.cri.runSandbox();
    const containers = await Promise.all(
      Array.from({ length: 8 }, () => bench.cri.startContainer(id, { command: ["true"] })),
    );
    await Promise.all(
      containers.map(async (containerId) => {
        await expect
          .poll(async () => (await bench.cri.status(containerId)).state, { timeout: 30_000 })
          .toBe(ContainerState.CONTAINER_EXITED);
        await bench.cri.call("removeContainer", { containerId });
      }),
    );
    for (const containerId of containers) {
      await expect
        .poll(() => typesOf(events.received, containerId))
        .toEqual([
          ContainerEventType.CONTAINER_CREATED_EVENT,
          ContainerEventType.CONTAINER_STARTED_EVENT,
          ContainerEventType.CONTAINER_STOPPED_EVENT,
          ContainerEventType.CONTAINER_DELETED_EVENT,
        ]);
    }
    const own = events.received.find(({ containerId }) => containerId === containers[0]);
    expect(own?.podSandboxStatus?.id).toBe(id);
    expect(typesOf(events.received, id)).toEqual([ContainerEventType.CONTAINER_STARTED_EVENT]);
    events.cancel();
    await bench.cri.removeSandbox(id);
  });

  test("of the time without a client are kept for the next one, and told once", async () => {
    const first = bench.cri.stream("getContainerEvents");
    await expect.poll(() => first.received.length).toBeGreaterThan(0);
    first.cancel();
    const away = await bench.cri.startContainer(pod, { command: ["true"] });
    await expect.poll(async () => (await bench.cri.status(away)).state).toBe(2);
    const second = bench.cri.stream("getContainerEvents");
    await expect.poll(() => typesOf(second.received, away).length).toBe(3);
    expect(typesOf(second.received, away)).toEqual([
      ContainerEventType.CONTAINER_CREATED_EVENT,
      ContainerEventType.CONTAINER_STARTED_EVENT,
      ContainerEventType.CONTAINER_STOPPED_EVENT,
    ]);
    expect(typesOf(second.received, container)).toEqual([]);
    const third = bench.cri.stream("getContainerEvents");
    await bench.cri.call("removeContainer", { containerId: away });
    await expect.poll(() => typesOf(third.received, away)).toEqual([ContainerEventType.CONTAINER_DELETED_EVENT]);
    await expect.poll(() => typesOf(second.received, away).length).toBe(4);
    second.cancel();
    third.cancel();
  });

  test("of containers that ended while the daemon was down are told when it is back", async () => {
    const ends = await bench.cri.startContainer(pod, { command: ["sleep", "4"] });
    await bench.daemon.kill9();
    await bench.daemon.containerEnded(ends);
    await bench.daemon.start();
    bench.reconnect();
    const events = bench.cri.stream("getContainerEvents");
    // Nobody waits until it is written that a container runs: a daemon killed before has its start told again.
    const told = () =>
      typesOf(events.received, ends).filter((type) => type !== ContainerEventType.CONTAINER_STARTED_EVENT);
    await expect.poll(told).toEqual([ContainerEventType.CONTAINER_STOPPED_EVENT]);
    const status = events.received.findLast(({ containerId }) => containerId === ends)?.containersStatuses;
    expect(status?.find(({ id }) => id === ends)?.exitCode).toBe(0);
    events.cancel();
  });
});

test("the daemon's own metrics count what was asked, on a socket that goes with the daemon", async () => {
  await bench.cri.call("version");
  const page = await new Promise<string>((resolve, reject) => {
    request({ socketPath: METRICS_SOCKET, path: "/metrics" }, (response) => void text(response).then(resolve, reject))
      .on("error", reject)
      .end();
  });
  expect(page).toMatch(/^minke_sandboxes\{owner="cri",state="ready"\} 1$/m);
  expect(page).toMatch(/^minke_cri_requests_total\{method="version",outcome="ok"\} \d+$/m);
  await bench.daemon.expect("daemon", "stop");
  expect(existsSync(METRICS_SOCKET)).toBe(false);
});

test("minke stats shows a pod with its containers and says what one that is not there is", async () => {
  await bench.daemon.start();
  const input = `
apiVersion: v1
kind: Pod
metadata: { name: counted }
spec:
  containers:
    - { name: spin, image: "minke.test/busybox:1", command: [sh, -c, "while :; do :; done"] }`;
  expect(await bench.daemon.minke(["run", "-f", "-", "--wait"], { input })).toMatchObject({ code: 0 });
  const stdout = await bench.daemon.expect("stats");
  expect(stdout).toMatch(/^NAME +CPU +MEMORY +LIMIT +PIDS +DISK +NET RX \/ TX\n/);
  expect(stdout).toMatch(/^ {2}spin +[1-9]\d*m +[\d.]+ [KM]iB/m);
  const items = JSON.parse(await bench.daemon.expect("stats", "counted", "-o", "json")) as {
    items: { containers: unknown[] }[];
  };
  expect(items.items[0]?.containers).toHaveLength(1);
  expect(await bench.daemon.minke(["stats", "nobody"])).toMatchObject({ code: 3 });
  expect(await bench.daemon.minke(["stats", "-o", "xml"])).toMatchObject({ code: 2 });
  await bench.daemon.expect("delete", "pod", "counted", "--force");
});
