/**
 * ExecSync, Exec and Attach: further processes in a running container, and its own streams.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { toByteString } from "../base/byte-strings.js";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { type ContainerId, newExecId } from "../base/ids.js";
import type { Process, Spec } from "../oci/index.js";
import { parseSpecJson } from "../oci/json.js";
import type { ContainerRecord } from "../state/container.js";
import { cgroupDir, killCgroup } from "./cgroups.js";
import { toCommandError } from "./command-error.js";
import { describeContainer, requireMonitor, requireRunning, type RuntimeContext } from "./context.js";
import { ANSWER_DEADLINE_MS, answerInTime, answerOf } from "./monitor-answer.js";
import type { ExecRequest, ExecSession, ExecSyncResult } from "./runtime.js";

/** Of stdout and of stderr: both together are below the 16 MiB that a gRPC message of CRI may have (CVE-2022-1708's class). */
const CAPTURE_LIMIT_BYTES = 8 * 1024 * 1024 - 64 * 1024;

/** See `Runtime.execSync`. */
export async function execSync(
  ctx: RuntimeContext,
  id: ContainerId,
  command: readonly string[],
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<ExecSyncResult> {
  const record = requireRunning(ctx, id);
  const process = await execProcess(ctx, record, { command, tty: false, stdin: false });
  const monitor = requireMonitor(ctx, record.sandboxId);
  signal?.throwIfAborted();
  const execId = newExecId();
  const asked = monitor.exec({
    execId,
    containerId: id,
    process,
    cgroup: cgroupDir(ctx.cgroups, record.cgroupPath),
    mode: "capture",
    stdin: false,
    timeoutMs,
    limitBytes: CAPTURE_LIMIT_BYTES,
  });
  // The monitor keeps the timeout; one that hangs keeps none.
  const answer =
    timeoutMs > 0 ? answerOf(monitor, asked, timeoutMs + ANSWER_DEADLINE_MS) : answerInTime(monitor, asked);
  // Nobody reads the answer of a caller that went away: without a timeout its process would stay for good.
  const kill = () => void monitor.killExec({ execId }).catch((err: unknown) => warnOfLeftExec(ctx, record, err));
  signal?.addEventListener("abort", kill, { once: true });
  const outcome = await answer
    .catch((err: unknown) => {
      throw toExecError(record, command, err);
    })
    .finally(() => signal?.removeEventListener("abort", kill));
  signal?.throwIfAborted();
  if (outcome.timedOut) {
    throw new RuntimeError(
      `exec "${command[0]}" in container ${describeContainer(record)}: not ended within ${timeoutMs} ms, killed`,
      {
        kind: "deadline-exceeded",
        code: "EXEC_TIMEOUT",
      },
    );
  }
  return { exitCode: outcome.exitCode, stdout: outcome.stdout, stderr: outcome.stderr, isTruncated: outcome.truncated };
}

function warnOfLeftExec(ctx: RuntimeContext, record: ContainerRecord, err: unknown): void {
  const { kind, code, message } = toRuntimeError(err);
  const fields = { sandboxId: record.sandboxId, containerId: record.id, kind, code, message };
  ctx.log.warn(fields, "could not kill an exec whose caller went away, leaving it to its container's end");
}

/** See `Runtime.exec`. */
export async function exec(ctx: RuntimeContext, id: ContainerId, request: ExecRequest): Promise<ExecSession> {
  const record = requireRunning(ctx, id);
  const monitor = requireMonitor(ctx, record.sandboxId);
  const execId = newExecId();
  try {
    failpoint("exec");
    const asked = monitor.exec({
      execId,
      containerId: id,
      process: await execProcess(ctx, record, request),
      cgroup: cgroupDir(ctx.cgroups, record.cgroupPath),
      mode: "stream",
      stdin: request.stdin,
      timeoutMs: 0,
      limitBytes: 0,
    });
    // Another runtime's exec is a program of its own, which takes its time on a slow machine.
    const { pid } = await answerInTime(monitor, asked);
    try {
      failpoint("exec streams");
      return await monitor.openStream({ execId });
    } catch (err) {
      // The monitor would wait half a minute for a client before it killed it.
      await killExec(ctx, record, pid);
      throw err;
    }
  } catch (err) {
    throw toExecError(record, request.command, err);
  }
}

/** Kills an exec whole, by the cgroup that the monitor made for it below the container's. */
async function killExec(ctx: RuntimeContext, record: ContainerRecord, pid: number): Promise<void> {
  const text = await readFile(`/proc/${pid}/cgroup`, "utf8").catch(() => "");
  const own = /^0::(.*)$/m.exec(text)?.[1] ?? "";
  const at = own.indexOf(`${record.cgroupPath}/exec-`);
  if (at >= 0) await killCgroup(ctx.cgroups, own.slice(at));
}

/** See `Runtime.attach`. */
export async function attach(ctx: RuntimeContext, id: ContainerId): Promise<ExecSession> {
  const record = requireRunning(ctx, id);
  try {
    return await requireMonitor(ctx, record.sandboxId).openStream({ containerId: id });
  } catch (err) {
    throw withContext(err, `attach to container ${describeContainer(record)}`);
  }
}

/** An exec is its container's process with another command: same user, env, capabilities, directory. */
async function execProcess(ctx: RuntimeContext, record: ContainerRecord, request: ExecRequest): Promise<Process> {
  const base = await containerProcess(ctx, record);
  const env = base.env ?? [];
  return {
    ...base,
    args: [...request.command],
    terminal: request.tty,
    env: request.tty && !env.some((entry) => entry.startsWith("TERM=")) ? [...env, "TERM=xterm"] : env,
    ...(request.tty && request.size && { consoleSize: { height: request.size.rows, width: request.size.columns } }),
  };
}

async function containerProcess(ctx: RuntimeContext, record: ContainerRecord): Promise<Process> {
  const known = ctx.processes.get(record.id);
  if (known) return known;
  const bytes = await readFile(join(ctx.paths.container(record.id), "bundle", "config.json"));
  const spec = parseSpecJson(toByteString(bytes)) as Spec;
  if (!spec.process)
    throw new RuntimeError("the container's bundle has no process", { kind: "data-loss", code: "BUNDLE_DAMAGED" });
  ctx.processes.set(record.id, spec.process);
  return spec.process;
}

function toExecError(record: ContainerRecord, command: readonly string[], err: unknown): RuntimeError {
  const error = toCommandError(err);
  const doing = `exec "${command[0] ?? ""}"`;
  // The native core says which command as well; once is enough.
  const inner = error.message.startsWith(`${doing}: `) ? error.message.slice(doing.length + 2) : error.message;
  return new RuntimeError(`${doing} in container ${describeContainer(record)}: ${inner}`, {
    kind: error.kind,
    code: error.code,
    syscall: error.syscall,
    cause: error,
  });
}
