/**
 * The end of a shared PID namespace: when its first process dies, by the kernel's OOM killer or by somebody
 * on the host, all others die with it and none can be started there again (pid_namespaces(7)).
 *
 * Such a sandbox is stopped, so that its owner sees that it has to make another one.
 */
import { toRuntimeError } from "../base/errors.js";
import type { SandboxId } from "../base/ids.js";
import { hasEnded, type ProcessStat, parseProcessStat } from "../base/process-stat.js";
import { processStat } from "../native/index.js";
import type { RuntimeContext } from "./context.js";
import { stopSandbox } from "./stop-sandbox.js";

/** Looks after each exit of a container: the end of the namespace ends at least one, where there is any. */
export function watchInits(ctx: RuntimeContext): void {
  ctx.events.on("event", (event) => {
    if (event.type === "container-exited") void stopWithoutInit(ctx, event.sandboxId);
  });
}

async function stopWithoutInit(ctx: RuntimeContext, id: SandboxId): Promise<void> {
  const sandbox = ctx.sandboxes.get(id);
  if (
    sandbox?.state !== "ready" ||
    sandbox.initPid === undefined ||
    isLivingInit(parseProcessStat(processStat(sandbox.initPid)))
  )
    return;
  ctx.log.error({ sandboxId: id }, "the init process of a shared PID namespace died, stopping its sandbox");
  try {
    await stopSandbox(ctx, id);
  } catch (err) {
    const { kind, code, message } = toRuntimeError(err);
    ctx.log.error(
      { sandboxId: id, kind, code, err: message },
      "could not stop a sandbox, leaving it to StopPodSandbox",
    );
  }
}

/**
 * False for one that has ended, reaped or not, and for another process with its pid. False also for one that is
 * ending: it kills all others of its namespace and then waits, in state S, until they are reaped
 * (kernel/pid_namespace.c, zap_pid_ns_processes), so it is always there still when the first of them is told of.
 */
export function isLivingInit(stat: ProcessStat | undefined): boolean {
  return stat?.name === "minke-init" && !hasEnded(stat) && !stat.isExiting;
}
