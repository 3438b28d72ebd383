/**
 * CreateContainer: resolve image and user, record, directories, OCI bundle. No process yet.
 *
 * The bundle is the contract with the native core and with any other OCI runtime: all that the
 * container will be is decided here, and bad input is refused here.
 */
import { chown, readFile, stat } from "node:fs/promises";
import { dirname, isAbsolute, join, normalize, relative } from "node:path";
import { jsonToBytes } from "../base/byte-strings.js";
import { CleanupStack } from "../base/cleanup.js";
import { nowNs } from "../base/clock.js";
import { hasErrno, RuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type ContainerId, newContainerId, type SandboxId, shortId } from "../base/ids.js";
import type { ImageRecord } from "../image/image-record.js";
import { readInLayers } from "../image/layer-lookup.js";
import { type FileStep, removeTree } from "../native/index.js";
import type { LinuxSeccomp } from "../oci/index.js";
import { specToJson } from "../oci/json.js";
import {
  type AllowedDevice,
  type SandboxSurroundings,
  takesDefaultAppArmor,
  toContainerSpec,
} from "../spec/container-spec.js";
import { type ResolvedUser, resolveUser } from "../spec/user.js";
import type { ContainerConfig, ContainerDevice, ContainerRecord } from "../state/container.js";
import type { SandboxRecord } from "../state/sandbox.js";
import { loadedProfiles } from "./apparmor.js";
import { withCdiDevices } from "./cdi-devices.js";
import { cgroupSteps, containerCgroup, makeCgroups, makeRefusedCgroups, removeCgroup } from "./cgroups.js";
import {
  containersOf,
  describeSandbox,
  emit,
  monitorFdPath,
  requireSandbox,
  type RuntimeContext,
  type UserFiles,
} from "./context.js";
import { devicesAt } from "./host.js";
import { emptyLayer, imageVolumes, mountedImages } from "./image-mounts.js";
import type { StillWanted, TellStage } from "./in-flight.js";
import { adjustedByPlugins, tellOfContainer } from "./nri-events.js";
import { checkHandlerCan, handlerFiles, runtimeHandler } from "./runtime-handlers.js";
import { signalNumber } from "./signals.js";
import { mappedRoot } from "./user-namespaces.js";
import { unwound } from "./unwound.js";

/** A user database that is larger is no user database (CVE-2024-9676's class). */
const MAX_USER_FILE_BYTES = 1024 * 1024;
const MAX_CACHED_USER_FILES = 64;

const MAX_SECCOMP_PROFILE_BYTES = 1024 * 1024;

/** See `Runtime.createContainer`. */
export function createContainer(
  ctx: RuntimeContext,
  sandboxId: SandboxId,
  config: ContainerConfig,
  signal?: AbortSignal,
): Promise<ContainerId> {
  const { name, attempt } = config.metadata;
  const work = async (stillWanted: StillWanted, tellStage: TellStage) => {
    let stage = "plan";
    tellStage(() => stage);
    const at = (name: string) => void (stage = name);
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
      await build(ctx, id, sandbox, config, cleanup, at);
      stillWanted();
      cleanup.commit();
      at("NRI plugins");
      await tellOfContainer(ctx, "PostCreateContainer", id);
      emit(ctx, { type: "container-created", sandboxId, containerId: id, owner: config.owner });
      return id;
    } catch (err) {
      await undoContainer(ctx, id, sandboxId, cleanup);
      throw withContext(err, `create container "${name}" (attempt ${attempt}) in sandbox ${describeSandbox(sandbox)}`);
    } finally {
      ctx.nri.containerSettled(id);
    }
  };
  return ctx.inFlight.join(`container ${sandboxId}/${name}/${attempt}`, work, signal);
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
  at: (stage: string) => void,
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
  const askedCgroup = containerCgroup(sandbox.cgroupPath, id);
  const user = await containerUser(ctx, config, image);
  const handler = runtimeHandler(ctx, sandbox.config.runtimeHandler);
  if (handler) checkHandlerCan(handler, config);
  const mounted = await mountedImages(ctx, id, config);
  const volumes = imageVolumes(ctx, id, config, image.config.volumes);
  const { spec: planned, warnings: unforced } = toContainerSpec({
    config,
    image: image.config,
    user,
    sandbox: surroundings(ctx, sandbox, config),
    host: ctx.host,
    cgroupsPath: askedCgroup,
    localSeccomp: await readLocalSeccomp(config.security),
    devices: await lookUpDevices(config.devices ?? []),
    mountedImages: mounted.trees,
    imageVolumes: volumes.made,
    defaultAppArmor: takesDefaultAppArmor(config.security) ? await ctx.appArmor?.ready() : undefined,
    forOtherRuntime: handler !== undefined,
  });
  const made = await withCdiDevices(planned, config.cdiDevices ?? [], ctx.cdiDirs);
  const warnings = [...unforced, ...volumes.warnings];
  // The default one has been looked for when it was chosen.
  if (!takesDefaultAppArmor(config.security)) await checkAppArmorProfile(made.process?.apparmorProfile);
  const asked: ContainerRecord = {
    id,
    sandboxId: sandbox.id,
    bootId: ctx.bootId,
    config,
    imageId: image.id,
    imageRef: config.image,
    state: "created",
    createdAtNs: nowNs().toString(),
    cgroupPath: askedCgroup,
    logPath: containerLogPath(sandbox, config),
    stopSignal,
    user: { uid: user.uid, gid: user.gid, supplementalGroups: user.additionalGids },
    ...(mounted.ids.length > 0 && { mountedImageIds: mounted.ids }),
    ...(warnings.length > 0 && { warnings }),
  };
  at("NRI plugins");
  const { record, spec } = await adjustedByPlugins(ctx, sandbox, { record: asked, spec: made }, cleanup);
  const { cgroupPath } = record;
  at("record");
  failpoint("record container");
  const dir = ctx.paths.container(id);
  cleanup.push("remove directory", () => removeTree(dir));
  cleanup.push("remove cgroup", () => removeCgroup(ctx.cgroups, cgroupPath));
  const logDirectory = record.logPath === "" ? undefined : dirname(record.logPath);
  const files: FileStep[] = [
    { make: "directories", path: join(dir, "bundle"), mode: 0o700 },
    { make: "file", path: join(dir, "bundle", "config.json"), mode: 0o600, bytes: jsonToBytes(specToJson(spec)) },
    // The upper directory's own mode is the mode of "/" in the container.
    { make: "directory", path: join(dir, "upper"), mode: 0o755 },
    { make: "directory", path: join(dir, "work"), mode: 0o700 },
    ...(mounted.ids.length === 0 ? [] : [{ make: "directory", path: emptyLayer(ctx, id), mode: 0o755 } as const]),
    ...volumes.made.map(({ hostPath }) => ({ make: "directories", path: hostPath, mode: 0o755 }) as const),
    ...(logDirectory === undefined ? [] : [{ make: "directories", path: logDirectory, mode: 0o755 } as const]),
    ...(handler ? handlerFiles(ctx, id) : []),
  ];
  // Last: by it the next daemon knows that nothing is missing.
  const cgroup = [{ cgroup: cgroupPath, handDown: false }];
  const { idMaps } = sandbox;
  const last = idMaps ? files : [...files, ...cgroupSteps(ctx.cgroups, cgroup)];
  const refusal = await ctx.containers.putWith(id, record, { last });
  if (refusal && refusal.index < files.length) throw refusal.error;
  failpoint("after record container");
  if (refusal) await makeRefusedCgroups(ctx.cgroups, cgroup, refusal.error);
  if (idMaps) {
    await chown(join(dir, "upper"), ...mappedRoot(idMaps));
    await makeCgroups(ctx.cgroups, cgroup);
  }
  failpoint("after container cgroup");
  if (spec.process) ctx.processes.set(id, spec.process);
}

async function containerUser(ctx: RuntimeContext, config: ContainerConfig, image: ImageRecord): Promise<ResolvedUser> {
  const { passwd, group } = await userFiles(ctx, image);
  return resolveUser({ ...config.user, user: config.user.user ?? image.config.user }, passwd, group);
}

async function userFiles(ctx: RuntimeContext, image: ImageRecord): Promise<UserFiles> {
  const known = ctx.userFiles.get(image.id);
  if (known) return known;
  const lowerDirs = ctx.images.lowerDirs(image.id);
  const read = async (path: string) =>
    (await readInLayers(lowerDirs, path, MAX_USER_FILE_BYTES))?.toString("utf8") ?? "";
  const [passwd, group] = await Promise.all([read("/etc/passwd"), read("/etc/group")]);
  if (ctx.userFiles.size >= MAX_CACHED_USER_FILES) ctx.userFiles.clear();
  ctx.userFiles.set(image.id, { passwd, group });
  return { passwd, group };
}

function surroundings(ctx: RuntimeContext, sandbox: SandboxRecord, container: ContainerConfig): SandboxSurroundings {
  const { monitor, config } = sandbox;
  return {
    config,
    netnsPath: monitorFdPath(sandbox, monitor?.netFd),
    ipcnsPath: monitorFdPath(sandbox, monitor?.ipcFd),
    utsnsPath: monitorFdPath(sandbox, monitor?.utsFd),
    usernsPath: monitorFdPath(sandbox, monitor?.userFd),
    pidnsPath: pidnsPath(ctx, sandbox, container),
    shmPath: shmPath(ctx, sandbox),
    filesDir: ctx.paths.sandbox(sandbox.id),
  };
}

/** Another runtime mounts in its container's mount namespace, which a descriptor does not lead out of. */
function shmPath(ctx: RuntimeContext, sandbox: SandboxRecord): string {
  const held = monitorFdPath(sandbox, sandbox.monitor?.shmFd);
  if (held === undefined) return "/dev/shm";
  return runtimeHandler(ctx, sandbox.config.runtimeHandler) ? ctx.paths.sandboxShm(sandbox.id) : held;
}

/** `undefined`: the host's, or one of its own as the config says. */
function pidnsPath(ctx: RuntimeContext, sandbox: SandboxRecord, { pid }: ContainerConfig): string | undefined {
  if (typeof pid === "object") {
    const target = containersOf(ctx, sandbox.id).find(({ id }) => id === pid.target);
    if (target?.state === "running" && target.pid !== undefined) return `/proc/${target.pid}/ns/pid`;
    throw new RuntimeError(
      `PID namespace of container "${pid.target}": no running container of this sandbox has that id`,
      {
        kind: "failed-precondition",
        code: "CONTAINER_NOT_RUNNING",
      },
    );
  }
  if ((pid ?? sandbox.config.namespaces.pid) !== "pod") return undefined;
  const init = sandbox.initPid;
  // Without a path the container would be in the host's.
  if (init === undefined)
    throw new RuntimeError("the sandbox has no init process", { kind: "internal", code: "INTERNAL" });
  return `/proc/${init}/ns/pid`;
}

/** @throws RuntimeError `failed-precondition` SECCOMP_PROFILE_INVALID */
async function readLocalSeccomp({
  seccomp,
  privileged,
}: ContainerConfig["security"]): Promise<LinuxSeccomp | undefined> {
  if (seccomp?.type !== "localhost" || privileged) return undefined;
  const refused = (why: string, cause?: unknown) =>
    new RuntimeError(`seccomp profile "${seccomp.localhostRef}": ${why}`, {
      kind: "failed-precondition",
      code: "SECCOMP_PROFILE_INVALID",
      cause,
    });
  if (!isAbsolute(seccomp.localhostRef)) throw refused("not an absolute path");
  let profile: unknown;
  try {
    const { size } = await stat(seccomp.localhostRef);
    if (size > MAX_SECCOMP_PROFILE_BYTES) throw refused(`larger than ${MAX_SECCOMP_PROFILE_BYTES} bytes`);
    profile = JSON.parse(await readFile(seccomp.localhostRef, "utf8"));
  } catch (err) {
    throw err instanceof RuntimeError ? err : refused(err instanceof Error ? err.message : String(err), err);
  }
  if (typeof profile === "object" && profile !== null && "defaultAction" in profile) return profile as LinuxSeccomp;
  throw refused("it has no defaultAction");
}

/** @throws RuntimeError `failed-precondition` APPARMOR_MISSING for a profile that is not loaded */
async function checkAppArmorProfile(name: string | undefined): Promise<void> {
  if (name === undefined || name === "unconfined") return;
  const loaded = await loadedProfiles().catch((err: unknown) => {
    throw withContext(err, `AppArmor profile "${name}"`);
  });
  // Where nobody can tell, the kernel refuses at start.
  if (loaded === undefined || loaded.has(name)) return;
  throw new RuntimeError(`AppArmor profile "${name}" is not loaded in the kernel`, {
    kind: "failed-precondition",
    code: "APPARMOR_MISSING",
  });
}

/** @throws RuntimeError `failed-precondition` DEVICE_NOT_FOUND */
async function lookUpDevices(wanted: readonly ContainerDevice[]): Promise<AllowedDevice[]> {
  const found = await Promise.all(
    wanted.map(async ({ hostPath, containerPath, permissions }) => {
      const nodes = await devicesAt(hostPath).catch((err: unknown) => {
        if (hasErrno(err, "ENOENT") || hasErrno(err, "ENOTDIR")) return [];
        throw withContext(err, `device "${hostPath}"`);
      });
      if (nodes.length === 0) {
        throw new RuntimeError(`device "${hostPath}" is not a device node, nor a directory of them`, {
          kind: "failed-precondition",
          code: "DEVICE_NOT_FOUND",
        });
      }
      return nodes.map((device) => ({
        device: { ...device, path: join(containerPath, relative(hostPath, device.path)) },
        hostPath: device.path,
        access: permissions,
      }));
    }),
  );
  return found.flat();
}

/** linux/limits.h */
const PATH_MAX = 4096;
const NAME_MAX = 255;

/** @throws RuntimeError `invalid-argument` INVALID_LOG_PATH for one that leaves the log directory, or that no file can have */
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
  if (Buffer.byteLength(path) >= PATH_MAX || path.split("/").some((name) => Buffer.byteLength(name) > NAME_MAX)) {
    throw new RuntimeError(`log path "${config.logPath}" is longer than the path of a file can be`, {
      kind: "invalid-argument",
      code: "INVALID_LOG_PATH",
    });
  }
  return path;
}
