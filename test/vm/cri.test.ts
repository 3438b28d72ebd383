/**
 * CRI on a host with every controller and AppArmor: critest's specs that the test machine cannot run, every
 * field of CRI's resources, and containers whose processes wait in the kernel and heed no signal. critest
 * mostly sleeps, so it goes on beside the others.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { critestImages, critestProgram, runCritest, specsOfVm } from "./critest.js";
import { DAEMON_MS, loadImages, sharedDaemon, SLOW_MS } from "./daemon.js";
import { LOOP_DEVICE } from "./loop-device.js";
import { busyboxPod, podApi } from "./pod-api.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";
import { requiredTool } from "./tools.js";

const vm = sharedVm();
const BUSYBOX = "minke.test/busybox:1";
const MIB = 1 << 20;

let critest: Promise<ReadonlyMap<string, string>>;

const output = (command: string) => vm().output(command, { timeoutMs: SLOW_MS });
const crictlLine = (...args: string[]) =>
  [requiredTool("crictl"), "-r", "unix:///run/minke/cri.sock", "-t", "120s", ...args].map(quoted).join(" ");
const crictl = async (...args: string[]) => (await output(crictlLine(...args))).trim();

beforeAll(async () => {
  requiredTool("crictl");
  critestProgram();
  const images = critestImages();
  await sharedDaemon(vm());
  await loadImages(vm(), images);
  critest = runCritest(vm(), 2 * SLOW_MS);
  // Awaited by the last tests.
  critest.catch(() => undefined);
}, DAEMON_MS + SLOW_MS);

afterAll(async () => {
  await critest?.catch(() => undefined);
}, 3 * SLOW_MS);

describe("CRI's resources", () => {
  interface Seen {
    readonly files: Readonly<Record<string, string>>;
    readonly status: Readonly<Record<string, unknown>>;
  }
  let seen: Readonly<Record<"created" | "updated" | "later", Seen>> & {
    readonly oomScoreAdj: string;
    readonly psi: readonly boolean[];
    readonly figures: readonly (readonly [name: string, before: number, told: number, after: number])[];
    readonly pod: string;
    readonly left: number;
  };
  beforeAll(async () => {
    await output(LOOP_DEVICE);
    seen = JSON.parse(await output("node test/vm/guest/cri-resources.mjs")) as typeof seen;
  }, SLOW_MS);

  const created = {
    "cpu.max": "10000 50000",
    "cpu.weight": "174",
    "memory.max": String(64 * MIB),
    "memory.swap.max": String(32 * MIB),
    "memory.high": String(48 * MIB),
    "memory.oom.group": "1",
    "cpuset.cpus": "0",
    "cpuset.mems": "0",
    "hugetlb.2MB.max": String(4 * MIB),
    "pids.max": "23",
    "io.max": "7:0 rbps=1048576 wbps=max riops=max wiops=max",
  };
  const told = {
    cpuPeriod: "50000",
    cpuQuota: "10000",
    cpuShares: "2048",
    memoryLimitInBytes: String(64 * MIB),
    memorySwapLimitInBytes: String(96 * MIB),
    oomScoreAdj: "500",
    cpusetCpus: "0",
    cpusetMems: "0",
    hugepageLimits: [{ pageSize: "2MB", limit: String(4 * MIB) }],
  };

  test("of CreateContainer are in the cgroup's files and in the status", () => {
    expect(seen.created.files).toMatchObject(created);
    expect(seen.created.status).toMatchObject(told);
    expect(seen.oomScoreAdj).toBe("500");
  });

  test("of UpdateContainerResources are, in place, and what was not named stays", () => {
    expect(seen.updated.files).toMatchObject({
      ...created,
      "cpu.max": "30000 100000",
      "cpu.weight": "59",
      "memory.max": String(80 * MIB),
      "memory.swap.max": "0",
      "cpuset.cpus": "0-1",
      "hugetlb.2MB.max": String(8 * MIB),
      "pids.max": "42",
    });
    expect(seen.updated.status).toMatchObject({
      ...told,
      cpuPeriod: "100000",
      cpuQuota: "30000",
      cpuShares: "512",
      memoryLimitInBytes: String(80 * MIB),
      memorySwapLimitInBytes: String(80 * MIB),
      cpusetCpus: "0-1",
      hugepageLimits: [{ pageSize: "2MB", limit: String(8 * MIB) }],
      unified: { "memory.high": String(48 * MIB), "pids.max": "42" },
    });
  });

  test("of an update before the start are in force from the start", () => {
    const changed = { "memory.max": String(72 * MIB), "memory.swap.max": String(24 * MIB) };
    expect(seen.later.files).toMatchObject({ ...created, ...changed });
    expect(seen.later.status).toMatchObject({ ...told, memoryLimitInBytes: String(72 * MIB) });
  });

  test("of UpdatePodSandboxResources leave the pod's cgroup to its caller", () => {
    expect(seen.pod).toBe(String(256 * MIB));
    expect(seen.left).toBe(0);
  });

  test("show in the metrics as the controllers count them: throttled, limit hits, huge pages, kernel memory", () => {
    expect(seen.figures.map(([name]) => name)).toEqual([
      "container_cpu_cfs_periods_total",
      "container_cpu_cfs_throttled_periods_total",
      "container_memory_failcnt",
      "container_oom_events_total",
      "container_memory_kernel_usage",
      "container_hugetlb_usage_bytes",
    ]);
    const [periods, throttled, , , kernel] = seen.figures;
    for (const [name, before, told, after] of seen.figures) {
      if (name === "container_memory_kernel_usage") continue;
      expect([name, before <= told, told <= after]).toEqual([name, true, true]);
    }
    for (const figure of [periods, throttled, kernel]) expect(figure?.[2]).toBeGreaterThan(0);
  });

  test("are beside PSI of cpu, memory and io in the container's stats", () => {
    expect(seen.psi).toEqual([true, true, true]);
  });
});

/** A file system that is frozen holds every writer in state D; SIGKILL waits until it is thawed. */
describe("a container in state D", () => {
  const MOUNT = "/mnt/frozen";
  /** Its name is the file that it writes to for ever. */
  const WRITER = "while sleep 0.2; do echo x >>/data/$0; done";
  const isInD = (script: string) =>
    `for i in $(seq 600); do grep -qs 'State:.D' $(pgrep -f ${quoted(script)} | sed 's,.*,/proc/&/status,') && exit; sleep 0.1; done; exit 1`;
  let sandbox = "";
  let pod = "";

  const withJson = async (name: string, value: object) => {
    await output(`cat >/tmp/${name}.json <<<${quoted(JSON.stringify(value))}`);
    return `/tmp/${name}.json`;
  };
  const start = async (name: string, command: readonly string[]) => {
    const mounts = [{ container_path: "/data", host_path: MOUNT }];
    const config = { metadata: { name }, image: { image: BUSYBOX }, command, mounts };
    const id = await crictl("create", "--no-pull", sandbox, await withJson(name, config), pod);
    await crictl("start", id);
    return id;
  };

  beforeAll(async () => {
    await output(
      `truncate -s 32M /tmp/frozen && mkfs.ext4 -q /tmp/frozen && mkdir -p ${MOUNT} && mount -o loop /tmp/frozen ${MOUNT}`,
    );
    const metadata = { name: "frozen", namespace: "vm", uid: "frozen", attempt: 0 };
    pod = await withJson("frozen", { metadata, linux: {} });
    sandbox = await crictl("runp", pod);
  }, SLOW_MS);
  afterAll(async () => {
    await output(`fsfreeze -u ${MOUNT} 2>/dev/null || true`);
    await crictl("rmp", "-f", sandbox);
    await output(`umount ${MOUNT}`);
  }, SLOW_MS);

  test("is named by its stop with what it waits in, holds up nothing else, and is removed once it can end", {
    timeout: 3 * SLOW_MS,
  }, async () => {
    const other = await start("other", ["sleep", "1000"]);
    const id = await start("writer", ["sh", "-c", WRITER, "by-cri"]);
    const container = { name: "main", image: BUSYBOX, command: ["sh", "-c", WRITER, "by-pod"] };
    const volume = { name: "data", hostPath: { path: MOUNT } };
    const containers = [{ ...container, volumeMounts: [{ name: "data", mountPath: "/data" }] }];
    const spec = { terminationGracePeriodSeconds: 1, containers, volumes: [volume] };
    const manifest = JSON.stringify({ apiVersion: "v1", kind: "Pod", metadata: { name: "stuck" }, spec });
    const api = "curl -s --unix-socket /run/minke/api.sock";
    const pods = "http://localhost/api/v1/namespaces/default/pods";
    await output(`${api} -f -H 'content-type: application/json' -d ${quoted(manifest)} ${pods} >/dev/null
      for i in $(seq 600); do [ -s ${MOUNT}/by-pod ] && [ -s ${MOUNT}/by-cri ] && exit; sleep 0.1; done; exit 1`);
    await output(`fsfreeze -f ${MOUNT}`);
    await output(isInD("[b]y-cri"));
    await output(isInD("[b]y-pod"));

    const stop = vm().run(crictlLine("stop", "--timeout", "1", id), { timeoutMs: SLOW_MS });
    await output(`${api} -f -X DELETE ${pods}/stuck >/dev/null`);
    const script = "echo alive; cat /proc/self/attr/current";
    expect(await crictl("exec", "--sync", "--timeout", "60", other, "sh", "-c", script)).toBe(
      "alive\nminke-default (enforce)",
    );
    const { code, stderr } = await stop;
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/outlive SIGKILL: pid \d+ \W*sh\W* is in state D, waiting in \w+/);
    expect(await crictl("inspect", "-o", "go-template", "--template", "{{.status.state}}", id)).toBe(
      "CONTAINER_RUNNING",
    );
    const events = "http://localhost/api/v1/namespaces/default/events";
    await output(
      `for i in $(seq 300); do ${api} ${events} | grep -q 'outlive SIGKILL: pid [0-9]* .*state D' && exit; sleep 0.2; done; ${api} ${events}; exit 1`,
    );

    await output(`fsfreeze -u ${MOUNT}`);
    await crictl("stop", id);
    // SIGTERM was there first, and a process without a handler for it ends by it.
    expect(await crictl("inspect", "-o", "go-template", "--template", "{{.status.exitCode}}", id)).toBe("143");
    await crictl("rm", id);
    await output(
      `for i in $(seq 600); do [ $(${api} -o /dev/null -w '%{http_code}' ${pods}/stuck) = 404 ] && exit; sleep 0.2; done; exit 1`,
    );
    expect(await output("pgrep -f '[b]y-cri|[b]y-pod' || true")).toBe("");
  });
});

/** Each try and what came of it, a line each. */
const TRIES = `cat /proc/self/attr/current
try() { "$@" >/dev/null 2>&1 && echo "$* allowed" || echo "$* denied"; }
try mount -t tmpfs none /mnt
try dd if=/dev/null of=/proc/sysrq-trigger count=0 conv=notrunc
try dd if=/proc/kcore of=/dev/null bs=1 count=1
try touch /new
echo end; exec sleep 1000`;

describe("the default AppArmor profile", () => {
  const pods = podApi(vm);
  const logs = new Map<string, string[]>();
  beforeAll(async () => {
    // Nothing but AppArmor may stand in the way.
    const admin = {
      capabilities: { add: ["SYS_ADMIN", "SYS_RAWIO"] },
      seccompProfile: { type: "Unconfined" },
      procMount: "Unmasked",
    };
    const containers = Object.entries({
      default: { ...admin, appArmorProfile: { type: "RuntimeDefault" } },
      unsaid: admin,
      unconfined: { ...admin, appArmorProfile: { type: "Unconfined" } },
      privileged: { privileged: true },
    }).map(([name, securityContext]) => ({
      name,
      image: BUSYBOX,
      command: ["sh", "-c", `mkdir -p /mnt; ${TRIES}`],
      securityContext,
    }));
    await pods.create(busyboxPod("confined", "", { spec: { hostUsers: true, containers } }));
    for (const { name } of containers) {
      const text = await pods.until(`all that container ${name} says`, async () => {
        const answer = await pods.ask("GET", `pods/confined/log?container=${name}`);
        return answer.text.includes("\nend") ? answer.text : undefined;
      });
      logs.set(name, text.trim().split("\n"));
    }
    await pods.remove("confined");
  }, 2 * SLOW_MS);

  test.each(["default", "unsaid"])(
    "is in force where %s says so, and denies mounts and writes to the kernel's controls",
    (name) => {
      expect(logs.get(name)).toEqual([
        "minke-default (enforce)",
        "mount -t tmpfs none /mnt denied",
        "dd if=/dev/null of=/proc/sysrq-trigger count=0 conv=notrunc denied",
        "dd if=/proc/kcore of=/dev/null bs=1 count=1 denied",
        "touch /new allowed",
        "end",
      ]);
    },
  );

  test("is neither an unconfined container's nor a privileged one's", () => {
    const everything = [
      "unconfined",
      "mount -t tmpfs none /mnt allowed",
      "dd if=/dev/null of=/proc/sysrq-trigger count=0 conv=notrunc allowed",
      "dd if=/proc/kcore of=/dev/null bs=1 count=1 allowed",
      "touch /new allowed",
      "end",
    ];
    expect(logs.get("unconfined")).toEqual(everything);
    expect(logs.get("privileged")).toEqual(everything);
  });
});

describe("critest:", () => {
  const specs = specsOfVm();

  test.each(specs)("%s", { timeout: 2 * SLOW_MS }, async (name) => {
    expect((await critest).get(name)).toBe("passed");
  });

  test("no other spec ran", async () => {
    expect([...(await critest).keys()].toSorted()).toEqual(specs.toSorted());
  });
});
