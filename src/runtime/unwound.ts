/**
 * The way back of a verb that failed: every undo runs, and one that fails is never silent.
 */
import type { CleanupStack } from "../base/cleanup.js";
import type { ContainerId, SandboxId } from "../base/ids.js";
import type { RuntimeContext } from "./context.js";

/** Unwinds and logs what could not be undone. True where nothing is left; if not, the record has to stay. */
export async function unwound(
  ctx: RuntimeContext,
  cleanup: CleanupStack,
  subject: { readonly sandboxId: SandboxId; readonly containerId?: ContainerId },
): Promise<boolean> {
  const failed = await cleanup.unwind();
  for (const { step, error } of failed) {
    const { kind, code, message, syscall } = error;
    ctx.log.warn(
      { ...subject, step, kind, code, errno: syscall?.errno, err: message },
      "could not undo a step, leaving it to RemovePodSandbox",
    );
  }
  return failed.length === 0;
}
