/**
 * The first process of a shared PID namespace: minke-init, which reaps and does nothing else.
 *
 * To the monitor it is a container named after its sandbox, with a root file system that holds
 * only its own program, no capability and a user of its own: whoever shares the namespace sees this process, and
 * a way from it to the host's files would be a way out.
 */
import { chmod, copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { withContext } from "../base/errors.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { MonitorClient } from "../monitor/monitor-client.js";
import type { Spec } from "../oci/index.js";
import type { Paths } from "../settings/paths.js";
import type { MonitorProcess, SandboxRecord } from "../state/sandbox.js";
import { cgroupDir, makeCgroup } from "./cgroups.js";
import type { RuntimeContext } from "./context.js";

/** What Kubernetes' pause runs as. */
const INIT_UID = 65_535;
const END_DEADLINE_MS = 2_000;

/** The monitor's name for it: no container can have a sandbox's id. */
function initId(id: SandboxId): ContainerId {
  return id as string as ContainerId;
}

/** Puts the program where every init process finds it as its whole root file system. Once per daemon. */
export async function prepareInitRootfs(paths: Paths, executable: string): Promise<void> {
  await mkdir(join(paths.initRootfs, "dev"), { recursive: true, mode: 0o755 });
  const file = join(paths.initRootfs, "minke-init");
  // Renamed into place: an older one may be running.
  await copyFile(executable, `${file}.tmp`);
  await chmod(`${file}.tmp`, 0o555);
  await rename(`${file}.tmp`, file);
}

/** Starts it in a new PID namespace, within the sandbox's other ones. Returns its pid on the host. */
export async function startSandboxInit(
  ctx: RuntimeContext,
  record: SandboxRecord,
  client: MonitorClient,
  monitor: Omit<MonitorProcess, "initPid">,
): Promise<number> {
  const bundle = join(ctx.paths.sandbox(record.id), "init");
  const cgroup = `${record.cgroupPath}/init`;
  try {
    await mkdir(bundle, { recursive: true, mode: 0o700 });
    await writeFile(join(bundle, "config.json"), JSON.stringify(initSpec(ctx, monitor, cgroup)), { mode: 0o600 });
    await makeCgroup(ctx.cgroups, cgroup, { handDown: false });
    const { pid } = await client.start({
      containerId: initId(record.id),
      bundlePath: bundle,
      exitFile: join(bundle, "exit.json"),
      cgroup: cgroupDir(ctx.cgroups, cgroup),
      logPath: null,
      logMaxBytes: 0,
      logMaxFiles: 2,
      terminal: false,
      stdin: false,
      stdinOnce: false,
    });
    return pid;
  } catch (err) {
    throw withContext(err, "start the init process");
  }
}

function initSpec(ctx: RuntimeContext, monitor: Omit<MonitorProcess, "initPid">, cgroup: string): Spec {
  const joined = (type: "network" | "ipc" | "uts", fd: number | undefined) => (fd === undefined ? [] : [{ type, path: `/proc/${monitor.pid}/fd/${fd}` }]);
  return {
    ociVersion: "1.3.0",
    root: { path: ctx.paths.initRootfs, readonly: true },
    process: {
      user: { uid: INIT_UID, gid: INIT_UID },
      args: ["/minke-init"],
      env: [],
      cwd: "/",
      capabilities: {},
      noNewPrivileges: true,
    },
    mounts: [{ destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "noexec", "mode=755", "size=64k"] }],
    linux: {
      namespaces: [
        { type: "pid" },
        { type: "mount" },
        ...joined("network", monitor.netFd),
        ...joined("ipc", monitor.ipcFd),
        ...joined("uts", monitor.utsFd),
      ],
      cgroupsPath: cgroup,
      resources: { devices: [{ allow: false, access: "rwm" }] },
    },
  };
}

/** Ends it, and with it whatever is left in its namespace (pid_namespaces(7)). One that is gone succeeds. */
export async function endSandboxInit(id: SandboxId, client: MonitorClient): Promise<void> {
  const ended = new Promise<void>((resolve) => {
    client.onExit((exit) => exit.containerId === initId(id) && resolve());
  });
  const { containers } = await client.list();
  const init = containers.find(({ containerId }) => containerId === initId(id));
  if (!init || init.state === "exited") return;
  await client.kill({ containerId: initId(id) });
  await Promise.race([ended, sleep(END_DEADLINE_MS, undefined, { ref: false })]);
}
