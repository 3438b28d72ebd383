// @ts-check
/**
 * Every field of CRI's LinuxContainerResources through CreateContainer and UpdateContainerResources, as a
 * kubelet sends it, and what is in the cgroup's files and in the status afterwards: one JSON object on
 * standard output. Runs inside the machine, as one process, since Node takes its time to load there.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/package.json`);
const { credentials } = require("@grpc/grpc-js");
const api = await import(`${process.cwd()}/dist/cri/generated/runtime/v1/api.js`);
const { clientOf } = await import(`${process.cwd()}/test/harness/grpc-client.mjs`);

const MIB = 1 << 20;
const PARENT = "/kubepods-check/pod1";
const client = new (clientOf(api.RuntimeServiceDefinition))("unix:/run/minke/cri.sock", credentials.createInsecure());

/** @param {string} method @param {string} message @param {object} fields @returns {Promise<any>} */
const call = (method, message, fields) =>
  new Promise((resolve, reject) =>
    client[method](api[message].fromPartial(fields), (/** @type {Error | null} */ err, /** @type {object} */ answer) =>
      err ? reject(err) : resolve(answer),
    ),
  );

/** @param {string} dir */
function filesOf(dir) {
  /** @type {Record<string, string>} */
  const files = {};
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (!entry.isFile() || !/\.(max|high|weight|cpus|mems|group|burst|freeze)$/.test(entry.name)) continue;
    files[entry.name] = readFileSync(`${dir}/${entry.name}`, "utf8").trim();
  }
  return files;
}

/** @param {string} containerId */
const resourcesOf = async (containerId) => {
  const { status } = await call("containerStatus", "ContainerStatusRequest", { containerId });
  return status.resources.linux;
};

// As a kubelet does: the pod's cgroup and its limits are the caller's.
mkdirSync(`/sys/fs/cgroup${PARENT}`, { recursive: true });
writeFileSync("/sys/fs/cgroup/kubepods-check/cgroup.subtree_control", "+memory +pids");
writeFileSync(`/sys/fs/cgroup${PARENT}/memory.max`, String(256 * MIB));
const config = api.PodSandboxConfig.fromPartial({
  metadata: { name: "resources", uid: "resources", namespace: "vm", attempt: 0 },
  linux: { cgroupParent: PARENT },
});
const { podSandboxId } = await call("runPodSandbox", "RunPodSandboxRequest", { config });
const create = async (/** @type {string} */ name, /** @type {object} */ resources) => {
  const container = {
    metadata: { name, attempt: 0 },
    image: { image: "minke.test/busybox:1" },
    command: ["sleep", "1000"],
    linux: { resources },
  };
  const request = { podSandboxId, config: container, sandboxConfig: config };
  return (await call("createContainer", "CreateContainerRequest", request)).containerId;
};
/** What the controllers count, by the metric's name. @param {string} id @returns {Record<string, number>} */
const countsOf = (id) => {
  const at = (/** @type {string} */ file, /** @type {string} */ key) =>
    Number(new RegExp(`^${key}(\\d+)$`, "m").exec(readFileSync(`${dirOf(id)}/${file}`, "utf8"))?.[1]);
  return {
    container_cpu_cfs_periods_total: at("cpu.stat", "nr_periods "),
    container_cpu_cfs_throttled_periods_total: at("cpu.stat", "nr_throttled "),
    container_memory_failcnt: at("memory.events", "max "),
    container_oom_events_total: at("memory.events", "oom_kill "),
    container_memory_kernel_usage: at("memory.stat", "kernel "),
    container_hugetlb_usage_bytes: at("hugetlb.2MB.current", ""),
  };
};
/** @param {string} id @returns {Promise<Record<string, number>>} */
const metricsOf = async (id) => {
  const { podMetrics } = await call("listPodSandboxMetrics", "ListPodSandboxMetricsRequest", {});
  const own = podMetrics.flatMap((/** @type {any} */ pod) => pod.containerMetrics);
  const { metrics } = own.find((/** @type {any} */ { containerId }) => containerId === id);
  return Object.fromEntries(metrics.map((/** @type {any} */ { name, value }) => [name, Number(value.value)]));
};
const dirOf = (/** @type {string} */ id) => `/sys/fs/cgroup${PARENT}/${podSandboxId}/${id}`;
const all = {
  cpuPeriod: 50_000n,
  cpuQuota: 10_000n,
  cpuShares: 2048n,
  memoryLimitInBytes: BigInt(64 * MIB),
  memorySwapLimitInBytes: BigInt(96 * MIB),
  oomScoreAdj: 500n,
  cpusetCpus: "0",
  cpusetMems: "0",
  hugepageLimits: [{ pageSize: "2MB", limit: BigInt(4 * MIB) }],
  unified: { "memory.high": String(48 * MIB), "memory.oom.group": "1", "pids.max": "23", "io.max": "7:0 rbps=1048576" },
};
const changes = {
  cpuPeriod: 100_000n,
  cpuQuota: 30_000n,
  cpuShares: 512n,
  memoryLimitInBytes: BigInt(80 * MIB),
  memorySwapLimitInBytes: BigInt(80 * MIB),
  cpusetCpus: "0-1",
  hugepageLimits: [{ pageSize: "2MB", limit: BigInt(8 * MIB) }],
  unified: { "pids.max": "42" },
};
/** @type {Record<string, any>} */
const seen = {};

const id = await create("all", all);
await call("startContainer", "StartContainerRequest", { containerId: id });
const [pid] = readFileSync(`${dirOf(id)}/cgroup.procs`, "utf8").split("\n");
seen.oomScoreAdj = readFileSync(`/proc/${pid}/oom_score_adj`, "utf8").trim();
seen.created = { files: filesOf(dirOf(id)), status: await resourcesOf(id) };
await call("updateContainerResources", "UpdateContainerResourcesRequest", { containerId: id, linux: changes });
seen.updated = { files: filesOf(dirOf(id)), status: await resourcesOf(id) };
const { stats } = await call("containerStats", "ContainerStatsRequest", { containerId: id });
seen.psi = [stats.cpu, stats.memory, stats.io].map(
  (part) => part?.psi?.Some !== undefined && part.psi.Full !== undefined,
);

// Longer than its quota of a period, and then idle.
const busy = { containerId: id, cmd: ["timeout", "1", "sh", "-c", "while :; do :; done"], timeout: 60n };
await call("execSync", "ExecSyncRequest", busy);
const [before, metrics, after] = [countsOf(id), await metricsOf(id), countsOf(id)];
seen.figures = Object.keys(before).map((name) => [name, before[name], metrics[name], after[name]]);

const later = await create("later", all);
const partly = { memoryLimitInBytes: BigInt(72 * MIB), unified: {} };
await call("updateContainerResources", "UpdateContainerResourcesRequest", { containerId: later, linux: partly });
await call("startContainer", "StartContainerRequest", { containerId: later });
seen.later = { files: filesOf(dirOf(later)), status: await resourcesOf(later) };

const sum = { memoryLimitInBytes: BigInt(300 * MIB) };
await call("updatePodSandboxResources", "UpdatePodSandboxResourcesRequest", { podSandboxId, resources: sum });
seen.pod = filesOf(`/sys/fs/cgroup${PARENT}`)["memory.max"];

await call("stopPodSandbox", "StopPodSandboxRequest", { podSandboxId });
await call("removePodSandbox", "RemovePodSandboxRequest", { podSandboxId });
seen.left = readdirSync(`/sys/fs/cgroup${PARENT}`, { withFileTypes: true }).filter((entry) =>
  entry.isDirectory(),
).length;
rmdirSync(`/sys/fs/cgroup${PARENT}`);
rmdirSync("/sys/fs/cgroup/kubepods-check");
console.log(JSON.stringify(seen, (_, value) => (typeof value === "bigint" ? String(value) : value)));
client.close();
