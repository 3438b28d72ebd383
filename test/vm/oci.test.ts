/** What linux.resources and the security of a spec do on a host with every cgroup v2 controller. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { LOOP_DEVICE } from "./loop-device.js";
import {
  cgroupFiles,
  cgroupOf,
  createContainer,
  deleteContainer,
  ociCommand,
  runContainer,
  startContainer,
} from "./oci-container.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
const MIB = 1 << 20;

/** Of the loop device: weights of devices need one that knows them. */
const scheduler = (name: string) => `echo ${name} >/sys/block/loop0/queue/scheduler`;

describe("linux.resources are written and read back:", () => {
  const ID = "fields";
  let files: ReadonlyMap<string, string>;
  let device = "";

  beforeAll(async () => {
    device = (await vm().output(LOOP_DEVICE)).trim();
    const [major, minor] = device.split(":").map(Number);
    const rate = (value: number) => [{ major, minor, rate: value }];
    const resources = {
      memory: { limit: 64 * MIB, swap: 96 * MIB, reservation: 32 * MIB },
      cpu: { shares: 2048, quota: 20_000, period: 100_000, burst: 10_000, cpus: "0-1", mems: "0" },
      pids: { limit: 23 },
      blockIO: {
        weight: 500,
        throttleReadBpsDevice: rate(1 * MIB),
        throttleWriteBpsDevice: rate(2 * MIB),
        throttleReadIOPSDevice: rate(100),
        throttleWriteIOPSDevice: rate(200),
      },
      hugepageLimits: [{ pageSize: "2MB", limit: 4 * MIB }],
      unified: { "memory.high": String(48 * MIB), "memory.oom.group": "1" },
    };
    await createContainer(vm(), ID, { args: ["true"], linux: { resources } });
    files = await cgroupFiles(vm(), ID);
  });
  afterAll(async () => {
    await deleteContainer(vm(), ID);
  });

  test.each([
    ["memory.limit", "memory.max", String(64 * MIB)],
    ["memory.swap", "memory.swap.max", String(32 * MIB)],
    ["memory.reservation", "memory.low", String(32 * MIB)],
    ["cpu.shares", "cpu.weight", "174"],
    ["cpu.quota and cpu.period", "cpu.max", "20000 100000"],
    ["cpu.burst", "cpu.max.burst", "10000"],
    ["cpu.cpus", "cpuset.cpus", "0-1"],
    ["cpu.mems", "cpuset.mems", "0"],
    ["pids.limit", "pids.max", "23"],
    ["hugepageLimits", "hugetlb.2MB.max", String(4 * MIB)],
    ["unified memory.high", "memory.high", String(48 * MIB)],
    ["unified memory.oom.group", "memory.oom.group", "1"],
  ])("%s in %s", (_, file, value) => {
    expect(files.get(file)).toBe(value);
  });

  test("blockIO.weight in io.weight", () => {
    expect(files.get("io.weight") ?? files.get("io.bfq.weight")).toMatch(/^default \d+$/m);
  });

  test("blockIO's four throttles in io.max", () => {
    expect(files.get("io.max")).toBe(`${device} rbps=${MIB} wbps=${2 * MIB} riops=100 wiops=200`);
  });
});

describe("what excludes other fields is written and read back:", () => {
  const ID = "others";
  /** An RDMA device in software, which rdma.max can name. */
  const RDMA_DEVICE =
    "modprobe rdma_rxe && { rdma link show vmrxe/1 >/dev/null 2>&1 || rdma link add vmrxe type rxe netdev lo; }";
  let files: ReadonlyMap<string, string>;

  beforeAll(async () => {
    await vm().output(`ip link set lo up; ${RDMA_DEVICE}; ${LOOP_DEVICE}; modprobe bfq; ${scheduler("bfq")}`);
    const resources = {
      memory: { limit: 64 * MIB, swap: -1 },
      cpu: { idle: 1 },
      pids: { limit: -1 },
      rdma: { vmrxe: { hcaHandles: 3, hcaObjects: 1000 } },
      blockIO: {
        weight: 500,
        weightDevice: [{ major: 7, minor: 0, weight: 300 }],
        throttleReadBpsDevice: [{ major: 7, minor: 0, rate: MIB }],
      },
      unified: { "cgroup.max.depth": "5", "memory.min": String(4 * MIB) },
    };
    await createContainer(vm(), ID, { args: ["true"], linux: { resources } });
    files = await cgroupFiles(vm(), ID);
  });
  afterAll(async () => {
    await deleteContainer(vm(), ID);
    // The RDMA device goes with the machine: Linux 6.12 stops in rdmacg_unregister_device where one that a cgroup
    // limited is deleted.
    await vm().output(scheduler("none"));
  });

  /** With CONFIG_BLK_CGROUP_IOCOST both files are there, and io.weight takes no device that BFQ schedules. */
  test("blockIO.weight and blockIO.weightDevice in the scheduler's file, and the former in io.weight if there", () => {
    expect(files.get("io.bfq.weight")).toBe("default 500\n7:0 300");
    expect(files.get("io.weight") ?? "default 4950").toBe("default 4950");
  });

  test.each([
    ["memory.swap of -1", "memory.swap.max", "max"],
    ["cpu.idle", "cpu.idle", "1"],
    ["pids.limit of -1", "pids.max", "max"],
    ["rdma", "rdma.max", "vmrxe hca_handle=3 hca_object=1000"],
    ["unified cgroup.max.depth", "cgroup.max.depth", "5"],
    ["unified memory.min", "memory.min", String(4 * MIB)],
  ])("%s in %s", (_, file, value) => {
    expect(files.get(file)?.trim()).toBe(value);
  });
});

describe("update in place:", () => {
  const ID = "updated";
  let device = "";
  beforeAll(async () => {
    device = (await vm().output(LOOP_DEVICE)).trim();
    const resources = {
      memory: { limit: 64 * MIB },
      cpu: { quota: 20_000, period: 100_000, burst: 10_000 },
      pids: { limit: 9 },
    };
    await startContainer(vm(), ID, { args: ["sleep", "1000"], linux: { resources } });
  });
  afterAll(() => deleteContainer(vm(), ID));

  test("a document of resources changes what it names and leaves the rest", async () => {
    const [major, minor] = device.split(":").map(Number);
    const resources = {
      memory: { limit: 80 * MIB, swap: 96 * MIB, reservation: 16 * MIB },
      cpu: { shares: 512, quota: 50_000, period: 100_000, burst: 0, cpus: "1", mems: "0" },
      blockIO: { throttleWriteIOPSDevice: [{ major, minor, rate: 50 }] },
      hugepageLimits: [{ pageSize: "2MB", limit: 2 * MIB }],
      unified: { "memory.high": String(72 * MIB) },
    };
    await vm().output(`${ociCommand("update", "--resources", "-", ID)} <<<'${JSON.stringify(resources)}'`);
    expect(Object.fromEntries(await cgroupFiles(vm(), ID))).toMatchObject({
      "memory.max": String(80 * MIB),
      "memory.swap.max": String(16 * MIB),
      "memory.low": String(16 * MIB),
      "memory.high": String(72 * MIB),
      "cpu.weight": "59",
      "cpu.max": "50000 100000",
      "cpu.max.burst": "0",
      "cpuset.cpus": "1",
      "cpuset.mems": "0",
      "pids.max": "9",
      "io.max": `${device} rbps=max wbps=max riops=max wiops=50`,
      "hugetlb.2MB.max": String(2 * MIB),
    });
  });

  test("options do the same", async () => {
    const options = ["--memory", "96m", "--memory-swap", "128m", "--cpu-share", "1024", "--cpu-quota", "30000"];
    await vm().output(ociCommand("update", ...options, "--pids-limit", "17", ID));
    expect(Object.fromEntries(await cgroupFiles(vm(), ID))).toMatchObject({
      "memory.max": String(96 * MIB),
      "memory.swap.max": String(32 * MIB),
      "cpu.weight": "100",
      "cpu.max": "30000 100000",
      "pids.max": "17",
    });
  });
});

test("pause stops a busy loop, and resume lets it go on", { timeout: 180_000 }, async () => {
  await startContainer(vm(), "frozen", { args: ["sh", "-c", "while :; do :; done"] });
  const usage = `head -1 ${cgroupOf("frozen")}/cpu.stat | cut -d' ' -f2`;
  const text = await vm().output(
    `${ociCommand("pause", "frozen")}; cat ${cgroupOf("frozen")}/cgroup.freeze; ${usage}; sleep 1; ${usage}
    ${ociCommand("resume", "frozen")}; cat ${cgroupOf("frozen")}/cgroup.freeze; sleep 1; ${usage}`,
  );
  await deleteContainer(vm(), "frozen");
  const [freeze, paused, pausedLater, thawed, resumed] = text.split("\n").map(Number);
  expect([freeze, thawed]).toEqual([1, 0]);
  expect(pausedLater).toBe(paused);
  expect(resumed).toBeGreaterThan(pausedLater ?? 0);
});

/** A frozen file system holds its writer in state D, where the freezer does not reach it. */
test("pause returns when every process is frozen, and not before", { timeout: 180_000 }, async () => {
  const MOUNT = "/mnt/paused";
  await vm().output(`truncate -s 32M /tmp/paused && mkfs.ext4 -q /tmp/paused && mkdir -p ${MOUNT}
    modprobe loop; mount -o loop /tmp/paused ${MOUNT}`);
  const mounts = [{ destination: "/data", type: "none", source: MOUNT, options: ["bind"] }];
  await startContainer(vm(), "held", { args: ["sh", "-c", "while :; do echo x >/data/file; done"], mounts });
  const text = await vm().output(
    `for i in $(seq 300); do [ -s ${MOUNT}/file ] && break; sleep 0.1; done
    fsfreeze -f ${MOUNT}
    for i in $(seq 300); do grep -q 'State:.D' /proc/$(cat ${cgroupOf("held")}/cgroup.procs)/status && break; sleep 0.1; done
    { sleep 1; echo thawed; fsfreeze -u ${MOUNT}; } &
    ${ociCommand("pause", "held")}; echo "pause $?"; grep frozen ${cgroupOf("held")}/cgroup.events; wait`,
    { timeoutMs: 120_000 },
  );
  await deleteContainer(vm(), "held");
  await vm().output(`umount ${MOUNT}; rm /tmp/paused`);
  expect(text).toBe("thawed\npause 0\nfrozen 1\n");
});

describe("limits bite:", () => {
  test("io.max holds a reader at its rate", { timeout: 180_000 }, async () => {
    await vm().output(LOOP_DEVICE);
    const devices = [{ path: "/dev/loop0", type: "b", major: 7, minor: 0, fileMode: 0o660 }];
    const allow = [{ allow: true, type: "b", major: 7, minor: 0, access: "rm" }];
    const script = "date +%s; dd if=/dev/loop0 of=/dev/null bs=64k count=32 iflag=direct 2>/dev/null; date +%s";
    const seconds = async (id: string, blockIO: object) => {
      const linux = { devices, resources: { devices: allow, blockIO } };
      const { stdout } = await runContainer(vm(), id, { args: ["sh", "-c", script], linux }, 120_000);
      const [from = Number.NaN, to = Number.NaN] = stdout.split("\n").map(Number);
      return to - from;
    };
    // 2 MiB at 512 KiB a second: 4 s, and next to nothing without.
    const free = await seconds("unthrottled", {});
    const throttled = await seconds("throttled", { throttleReadBpsDevice: [{ major: 7, minor: 0, rate: MIB / 2 }] });
    expect(throttled).toBeGreaterThanOrEqual(3);
    expect(free).toBeLessThan(throttled);
  });

  test("memory kills the container, which exits with 137", async () => {
    const resources = { memory: { limit: 16 * MIB, swap: 16 * MIB } };
    const args = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    expect((await runContainer(vm(), "memory", { args, linux: { resources } })).code).toBe(137);
  });

  test("pids refuses the fork above the limit", async () => {
    const script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 30 & done; echo all started";
    const args = ["sh", "-c", script];
    const result = await runContainer(vm(), "pids", { args, linux: { resources: { pids: { limit: 5 } } } });
    expect(result.stderr).toContain("can't fork");
    expect(result.stdout).not.toContain("all started");
  });

  test("cpu.quota of a fifth gives a busy loop a fifth", { timeout: 60_000 }, async () => {
    const resources = { cpu: { quota: 20_000, period: 100_000 } };
    await startContainer(vm(), "cpu", { args: ["sh", "-c", "while :; do :; done"], linux: { resources } });
    const used = `head -1 ${cgroupOf("cpu")}/cpu.stat | cut -d' ' -f2`;
    const clock = "date +%s%6N";
    const text = await vm().output(
      `${clock}; ${used}; sleep 3; ${used}; ${clock}; grep nr_throttled ${cgroupOf("cpu")}/cpu.stat`,
    );
    await deleteContainer(vm(), "cpu");
    const [atUs = 0, usedUs = 0, laterUsedUs = 0, laterAtUs = 0] = text.split("\n").map(Number);
    expect((laterUsedUs - usedUs) / (laterAtUs - atUs)).toBeGreaterThan(0.1);
    expect((laterUsedUs - usedUs) / (laterAtUs - atUs)).toBeLessThan(0.25);
    expect(Number(/nr_throttled (\d+)/.exec(text)?.[1])).toBeGreaterThan(10);
  });
});

describe("the device policy", () => {
  const devices = [{ path: "/dev/loop0", type: "b", major: 7, minor: 0, fileMode: 0o660 }];
  const args = ["sh", "-c", "dd if=/dev/loop0 of=/dev/null bs=512 count=1 && echo x >/dev/null && echo allowed"];
  const denyAll = { allow: false, access: "rwm" };

  beforeAll(() => vm().output(LOOP_DEVICE));

  test("denies a device without a rule, and leaves the default ones", async () => {
    const result = await runContainer(vm(), "denied", { args, linux: { devices, resources: { devices: [denyAll] } } });
    expect(result.stderr).toContain("Operation not permitted");
    expect(result.code).toBe(1);
  });

  test("allows a device that a rule names", async () => {
    const allow = { allow: true, type: "b", major: 7, minor: 0, access: "rm" };
    const linux = { devices, resources: { devices: [denyAll, allow] } };
    expect((await runContainer(vm(), "allowed", { args, linux })).stdout).toBe("allowed\n");
  });
});

describe("AppArmor", () => {
  const PROFILE = "profile minke-vm-oci flags=(attach_disconnected) { file, capability, deny /etc/denied w, }";
  beforeAll(() => vm().output(`apparmor_parser --skip-cache --replace <<<'${PROFILE}'`));
  afterAll(() => vm().output(`apparmor_parser --remove <<<'${PROFILE}'`));
  const args = [
    "sh",
    "-c",
    "cat /proc/self/attr/current; echo x >/etc/other && echo other written; echo x >/etc/denied",
  ];

  test("a profile of the spec is in force and blocks the write that it denies", async () => {
    const result = await runContainer(vm(), "confined", { args, process: { apparmorProfile: "minke-vm-oci" } });
    expect(result.stdout).toBe("minke-vm-oci (enforce)\nother written\n");
    expect(result.stderr).toMatch(/\/etc\/denied: Permission denied/);
  });

  test("without a profile the same write is done", async () => {
    const result = await runContainer(vm(), "unconfined", { args });
    expect(result).toMatchObject({ code: 0, stdout: "unconfined\nother written\n" });
  });

  test("a profile that is not loaded fails the start and names it", async () => {
    const result = await runContainer(vm(), "unknown", { args, process: { apparmorProfile: "minke-vm-not-loaded" } });
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain("minke-vm-not-loaded");
  });

  /** Commands that make what a runtime could take for /proc, below /tmp/bundles. */
  const DECOY = "/tmp/bundles/decoy";
  const makeDecoy = `for task in self thread-self 1; do
      mkdir -p ${DECOY}/$task/attr/apparmor
      for name in exec current apparmor/exec apparmor/current; do echo -n untouched >${DECOY}/$task/attr/$name; done
    done`;
  const decoy = async () =>
    new Set((await vm().output(`find ${DECOY} -type f -exec cat {} ';' -exec echo ';'`)).split("\n"));
  const truth = { destination: "/tmp", type: "proc", source: "proc" };
  const cover = (destination: string) => ({ destination, source: DECOY, options: ["rbind"] });
  const confinement = ["sh", "-c", "cat /tmp/self/attr/current; echo x >/etc/denied"];

  // The classes of CVE-2019-16884 and CVE-2019-19921; what else is written to /proc is in test/native/oci-attacks.test.ts.
  test("a profile is in force where a mount covers /proc, which is not written to", async () => {
    await vm().output(makeDecoy);
    const options = {
      args: confinement,
      mounts: [cover("/proc"), truth],
      process: { apparmorProfile: "minke-vm-oci" },
    };
    const result = await runContainer(vm(), "covered", options);
    expect(result.stdout).toBe("minke-vm-oci (enforce)\n");
    expect(result.stderr).toMatch(/\/etc\/denied: Permission denied/);
    expect(await decoy()).toEqual(new Set(["untouched", ""]));
  });

  test("exec's profile is in force in a container that has covered /proc", async () => {
    await vm().output(makeDecoy);
    const sets = { bounding: ["CAP_SYS_ADMIN"], permitted: ["CAP_SYS_ADMIN"], effective: ["CAP_SYS_ADMIN"] };
    await startContainer(vm(), "covers", {
      args: ["sh", "-c", "busybox mount -o bind /dev/decoy /proc && exec sleep 1000"],
      mounts: [cover("/dev/decoy"), truth],
      process: { capabilities: sets },
    });
    const covered = async () => (await vm().run(ociCommand("exec", "covers", "cat", "/proc/self/attr/exec"))).stdout;
    await expect.poll(covered, { timeout: 60_000, interval: 500 }).toBe("untouched");
    const process = { args: confinement, cwd: "/", env: ["PATH=/bin"], apparmorProfile: "minke-vm-oci" };
    await vm().output(`cat >/tmp/covers.json <<<${quoted(JSON.stringify(process))}`);
    const result = await vm().run(ociCommand("exec", "--process", "/tmp/covers.json", "covers"));
    await deleteContainer(vm(), "covers");
    expect(result.stdout).toBe("minke-vm-oci (enforce)\n");
    expect(result.stderr).toMatch(/\/etc\/denied: Permission denied/);
    expect(await decoy()).toEqual(new Set(["untouched", ""]));
  });
});
