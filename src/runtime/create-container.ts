/**
 * CreateContainer: resolve image and user, record, directories, OCI bundle. No process yet.
 *
 * The bundle is the contract with the native core and with any other OCI runtime: all that the
 * container will be is decided here, and bad input is refused here.
 */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { dirname, isAbsolute, join, normalize } from "node:path";
import { CleanupStack } from "../base/cleanup.js";
import { nowNs } from "../base/clock.js";
import { RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type ContainerId, newContainerId, type SandboxId, shortId } from "../base/ids.js";
import type { ImageRecord } from "../image/image-record.js";
import { readInLayers } from "../image/layer-lookup.js";
import { type SandboxSurroundings, toContainerSpec } from "../spec/container-spec.js";
import { type ResolvedUser, resolveUser } from "../spec/user.js";
import type { ContainerConfig, ContainerRecord } from "../state/container.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { containerCgroup, makeCgroup, removeCgroup } from "./cgroups.js";
import { containersOf, describeSandbox, emit, monitorFdPath, requireSandbox, type RuntimeContext } from "./context.js";
import { signalNumber } from "./signals.js";
import { unwound } from "./unwound.js";

/** A user database that is larger is no user database (CVE-2024-9676's class). */
const MAX_USER_FILE_BYTES = 1024 * 1024;

/** See `Runtime.createContainer`. */
export function createContainer(
  ctx: RuntimeContext,
  sandboxId: SandboxId,
  config: ContainerConfig,
): Promise<ContainerId> {
  const { name, attempt } = config.metadata;
  return ctx.inFlight.join(`container ${sandboxId}/${name}/${attempt}`, async () => {
    const sandbox = requireReady(ctx, sandboxId);
    const existing = containersOf(ctx, sandboxId).find(
      ({ config: { metadata } }) => metadata.name === name && metadata.attempt === attempt,
    );
    if (existing?.state === "created") return existing.id;
    if (existing) {
      throw new RuntimeError(
        `create container "${name}": container ${shortId(existing.id)} of this name and attempt is ${existing.state}`,
        {
          kind: "already-exists",
          code: "NAME_IN_USE",
        },
      );
    }
    const cleanup = new CleanupStack();
    const id = newContainerId();
    try {
      await build(ctx, id, sandbox, config, cleanup);
      cleanup.commit();
      emit(ctx, { type: "container-created", sandboxId, containerId: id, owner: config.owner });
      return id;
    } catch (err) {
      await undoContainer(ctx, id, sandboxId, cleanup);
      throw withContext(err, `create container "${name}" (attempt ${attempt}) in sandbox ${describeSandbox(sandbox)}`);
    }
  });
}

function requireReady(ctx: RuntimeContext, id: SandboxId): SandboxRecord {
  const sandbox = requireSandbox(ctx, id);
  if (sandbox.state === "ready") return sandbox;
  throw new RuntimeError(`sandbox ${describeSandbox(sandbox)} is ${sandbox.state}, not ready`, {
    kind: "failed-precondition",
    code: "SANDBOX_NOT_READY",
  });
}

/** The record goes last, and only where nothing else is left: Remove finds the rest by it. */
async function undoContainer(
  ctx: RuntimeContext,
  id: ContainerId,
  sandboxId: SandboxId,
  cleanup: CleanupStack,
): Promise<void> {
  const isUndone = await unwound(ctx, cleanup, { sandboxId, containerId: id });
  ctx.processes.delete(id);
  const record = ctx.containers.get(id);
  if (!record) return;
  try {
    if (isUndone) await ctx.containers.remove(id);
    else await ctx.containers.put(id, { ...record, state: "removing" }, "remember");
  } catch (err) {
    const fields = { sandboxId, containerId: id, err: String(err) };
    ctx.log.error(fields, "could not undo the record of a container, leaving it to RemovePodSandbox");
  }
}

async function build(
  ctx: RuntimeContext,
  id: ContainerId,
  sandbox: SandboxRecord,
  config: ContainerConfig,
  cleanup: CleanupStack,
): Promise<void> {
  const image = ctx.images.resolve(config.image);
  if (!image) {
    throw new RuntimeError(`image "${config.image}" is not on this machine; pull it first`, {
      kind: "not-found",
      code: "IMAGE_NOT_FOUND",
    });
  }
  const stopSignal = config.stopSignal ?? image.config.stopSignal ?? "SIGTERM";
  signalNumber(stopSignal);
  const lowerDirs = ctx.images.lowerDirs(image.id);
  const cgroupPath = containerCgroup(sandbox.cgroupPath, id);
  const { spec, warnings } = toContainerSpec({
    config,
    image: image.config,
    user: await containerUser(config, image, lowerDirs),
    sandbox: surroundings(ctx, sandbox),
    host: ctx.host,
    cgroupsPath: cgroupPath,
  });
  const record: ContainerRecord = {
    id,
    sandboxId: sandbox.id,
    bootId: ctx.bootId,
    config,
    imageId: image.id,
    imageRef: config.image,
    state: "created",
    createdAtNs: nowNs().toString(),
    cgroupPath,
    logPath: containerLogPath(sandbox, config),
    stopSignal,
    ...(warnings.length > 0 && { warnings }),
  };
  failpoint("record container");
  await ctx.containers.put(id, record);
  failpoint("after record container");

  const dir = ctx.paths.container(id);
  cleanup.push("remove directory", () => rm(dir, { recursive: true, force: true }));
  await mkdir(join(dir, "bundle"), { recursive: true, mode: 0o700 });
  await Promise.all([
    writeFile(join(dir, "bundle", "config.json"), JSON.stringify(spec), { mode: 0o600 }),
    // The upper directory's own mode is the mode of "/" in the container.
    mkdir(join(dir, "upper"), { mode: 0o755 }),
    mkdir(join(dir, "work"), { mode: 0o700 }),
    record.logPath === "" ? undefined : mkdir(dirname(record.logPath), { recursive: true, mode: 0o755 }),
  ]);
  failpoint("after container files");
  cleanup.push("remove cgroup", () => removeCgroup(ctx.cgroups, cgroupPath));
  await makeCgroup(ctx.cgroups, cgroupPath, { handDown: false });
  failpoint("after container cgroup");
  if (spec.process) ctx.processes.set(id, spec.process);
}

async function containerUser(
  config: ContainerConfig,
  image: ImageRecord,
  lowerDirs: readonly string[],
): Promise<ResolvedUser> {
  const [passwd, group] = await Promise.all(
    ["/etc/passwd", "/etc/group"].map(
      async (path) => (await readInLayers(lowerDirs, path, MAX_USER_FILE_BYTES))?.toString("utf8") ?? "",
    ),
  );
  return resolveUser(
    {
      user: config.user.user ?? image.config.user,
      gid: config.user.gid,
      supplementalGroups: config.user.supplementalGroups,
    },
    passwd ?? "",
    group ?? "",
  );
}

function surroundings(ctx: RuntimeContext, sandbox: SandboxRecord): SandboxSurroundings {
  const { monitor, config } = sandbox;
  return {
    config,
    netnsPath: monitorFdPath(sandbox, monitor?.netFd),
    ipcnsPath: monitorFdPath(sandbox, monitor?.ipcFd),
    utsnsPath: monitorFdPath(sandbox, monitor?.utsFd),
    pidnsPath: undefined,
    shmPath: monitorFdPath(sandbox, monitor?.shmFd) ?? "/dev/shm",
    filesDir: ctx.paths.sandbox(sandbox.id),
  };
}

/** @throws RuntimeError `invalid-argument` INVALID_LOG_PATH for one that leaves the log directory */
function containerLogPath(sandbox: SandboxRecord, config: ContainerConfig): string {
  const { logDirectory } = sandbox.config;
  if (logDirectory === "" || config.logPath === "") return "";
  const path = normalize(join(logDirectory, config.logPath));
  if (!isAbsolute(logDirectory) || !path.startsWith(`${normalize(logDirectory)}/`)) {
    throw new RuntimeError(`log path "${config.logPath}" leaves the sandbox's log directory "${logDirectory}"`, {
      kind: "invalid-argument",
      code: "INVALID_LOG_PATH",
    });
  }
  return path;
}
