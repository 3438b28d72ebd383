/**
 * Runtime handlers: who runs the containers of a sandbox, chosen by name when it is made. The
 * built-in one is in every monitor; others are OCI runtimes that the settings name, whose command
 * line the monitor calls. What each can do is asked once, at start.
 */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { hasErrno, RuntimeError } from "../base/errors.js";
import type { ContainerId } from "../base/ids.js";
import type { Logger } from "../base/log.js";
import { type FileStep, unmount } from "../native/index.js";
import type { RuntimeHandlerSettings } from "../settings/settings.js";
import type { ContainerConfig } from "../state/container.js";
import type { SandboxConfig } from "../state/sandbox.js";
import type { RuntimeContext } from "./context.js";

/** Both mean the built-in one; a RuntimeClass needs a name. */
export const BUILT_IN_HANDLERS: readonly string[] = ["", "minke"];
const FEATURES_DEADLINE_MS = 5_000;

export interface RuntimeHandlerFeatures {
  readonly hasRecursiveReadonlyMounts: boolean;
  readonly hasIdmappedMounts: boolean;
}

/** An OCI runtime with runc's command line. */
export interface RuntimeHandler extends RuntimeHandlerSettings, RuntimeHandlerFeatures {
  readonly name: string;
}

/** Asks each what it can do (runtime-spec features.md). One that does not answer has no features. */
export async function readRuntimeHandlers(
  settings: Readonly<Record<string, RuntimeHandlerSettings>>,
  log: Logger,
): Promise<ReadonlyMap<string, RuntimeHandler>> {
  const handlers = await Promise.all(
    Object.entries(settings).map(async ([name, handler]) => {
      const features = await readFeatures(handler).catch((err: unknown) => {
        const fields = { runtimeHandler: name, path: handler.path, err: String(err) };
        log.warn(fields, "a runtime handler does not say what it can do: taking it to have no optional features");
        return NO_FEATURES;
      });
      return { name, ...handler, ...features };
    }),
  );
  return new Map(handlers.map((handler) => [handler.name, handler]));
}

const NO_FEATURES: RuntimeHandlerFeatures = { hasRecursiveReadonlyMounts: false, hasIdmappedMounts: false };

async function readFeatures({ path, args }: RuntimeHandlerSettings): Promise<RuntimeHandlerFeatures> {
  const { stdout } = await promisify(execFile)(path, [...args, "features"], {
    timeout: FEATURES_DEADLINE_MS,
    killSignal: "SIGKILL",
  });
  const features = JSON.parse(stdout) as {
    mountOptions?: string[];
    linux?: { mountExtensions?: { idmap?: { enabled?: boolean } } };
  };
  return {
    hasRecursiveReadonlyMounts: features.mountOptions?.includes("rro") ?? false,
    hasIdmappedMounts: features.linux?.mountExtensions?.idmap?.enabled ?? false,
  };
}

/**
 * Who runs a sandbox's containers; `undefined`: the built-in handler.
 *
 * @throws RuntimeError `invalid-argument` RUNTIME_HANDLER_UNKNOWN: the settings have none of that name
 */
export function runtimeHandler(ctx: RuntimeContext, name: string): RuntimeHandler | undefined {
  if (BUILT_IN_HANDLERS.includes(name)) return undefined;
  const handler = ctx.runtimeHandlers.get(name);
  if (handler) return handler;
  const known = [...BUILT_IN_HANDLERS, ...ctx.runtimeHandlers.keys()].map((one) => `"${one}"`).join(", ");
  throw new RuntimeError(`runtime handler "${name}" is not in the settings (runtime-handlers); there are ${known}`, {
    kind: "invalid-argument",
    code: "RUNTIME_HANDLER_UNKNOWN",
  });
}

/**
 * Before anything is made for a sandbox.
 *
 * @throws RuntimeError `failed-precondition` RUNTIME_HANDLER_MISSING: its program is not there,
 *   RUNTIME_HANDLER_LACKS for a user namespace; and those of `runtimeHandler`
 */
export async function checkRuntimeHandler(ctx: RuntimeContext, config: SandboxConfig): Promise<void> {
  const name = config.runtimeHandler;
  const handler = runtimeHandler(ctx, name);
  if (!handler) return;
  // The rootfs that is mounted for it has its layers' own ids.
  if (config.userNamespace !== undefined) throw lacks(name, "is given no user namespaces by minke");
  await access(handler.path, constants.X_OK).catch((err: unknown) => {
    throw new RuntimeError(`runtime handler "${name}": "${handler.path}" is not a program on this machine`, {
      kind: "failed-precondition",
      code: "RUNTIME_HANDLER_MISSING",
      cause: err,
    });
  });
}

/** @throws RuntimeError `failed-precondition` RUNTIME_HANDLER_LACKS, where a handler would ignore what is asked for */
export function checkHandlerCan(handler: RuntimeHandler, { mounts }: ContainerConfig): void {
  if (!handler.hasIdmappedMounts && mounts.some(({ uidMappings }) => uidMappings?.length))
    throw lacks(handler.name, "does not say that it can make idmapped mounts");
  if (!handler.hasRecursiveReadonlyMounts && mounts.some(({ recursiveReadonly }) => recursiveReadonly))
    throw lacks(handler.name, "does not say that it can make recursive read-only mounts");
}

function lacks(name: string, what: string): RuntimeError {
  return new RuntimeError(`runtime handler "${name}" ${what}`, {
    kind: "failed-precondition",
    code: "RUNTIME_HANDLER_LACKS",
  });
}

/** What a container of another handler has beside its bundle: where its rootfs is mounted, and the handler's own state. */
export function handlerFiles(ctx: RuntimeContext, id: ContainerId): FileStep[] {
  const rootfs = join(ctx.paths.container(id), "bundle", "rootfs");
  return [
    { make: "directory", path: rootfs, mode: 0o755 },
    { make: "directory", path: handlerState(ctx, id), mode: 0o700 },
  ];
}

export function handlerState(ctx: RuntimeContext, id: ContainerId): string {
  return join(ctx.paths.container(id), "runtime");
}

/** Unmounts what a monitor that died has left mounted. Idempotent; nothing for the built-in handler. */
export async function removeRootfs(containerDir: string): Promise<void> {
  const rootfs = join(containerDir, "bundle", "rootfs");
  try {
    await rmdir(rootfs);
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return;
    if (!hasErrno(err, "EBUSY")) throw err;
    await unmount(rootfs, { detach: true });
    await rmdir(rootfs);
  }
}
