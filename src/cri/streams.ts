/**
 * Exec, Attach and PortForward: they answer with the URL of a session that waits for its client.
 */
import type { Runtime } from "../runtime/runtime.js";
import type { StreamingServer } from "../streaming/streaming-server.js";
import { checkCommand, invalidField } from "./convert/fields.js";
import { requireContainer, requireSandbox } from "./lookup.js";
import { RuntimeError } from "../base/errors.js";
import type { Verbs } from "./verbs.js";

export function streamVerbs(runtime: Runtime, streaming: StreamingServer): Verbs {
  return {
    exec: ({ containerId, cmd, tty, stdin, stdout, stderr }) => {
      checkCommand(cmd);
      checkStreams({ tty, stdin, stdout, stderr });
      const { id } = requireRunning(runtime, containerId);
      const selection = { stdin, stdout, stderr };
      return {
        url: streaming.offer({
          kind: "exec",
          selection,
          tty,
          open: () => runtime.exec(id, { command: cmd, tty, stdin }),
        }),
      };
    },
    attach: ({ containerId, tty, stdin, stdout, stderr }) => {
      checkStreams({ tty, stdin, stdout, stderr });
      const { id, config } = requireRunning(runtime, containerId);
      if (tty !== config.tty) throw invalidField("tty", `the container has ${config.tty ? "a" : "no"} terminal`);
      const open = async () => {
        const session = await runtime.attach(id);
        // How the container ends is its status's to say, not that of whoever looks on.
        const exited = session.exited.then(() => ({ exitCode: 0 }));
        exited.catch(() => undefined);
        return {
          stdin: session.stdin,
          stdout: session.stdout,
          stderr: session.stderr,
          exited,
          resize: (columns: number, rows: number) => session.resize(columns, rows),
          close: () => session.close(),
        };
      };
      return { url: streaming.offer({ kind: "attach", selection: { stdin, stdout, stderr }, tty, open }) };
    },
    portForward: ({ podSandboxId }) => {
      const sandbox = requireSandbox(runtime, podSandboxId);
      if (sandbox.state !== "ready") {
        throw new RuntimeError(`sandbox "${sandbox.id}" is ${sandbox.state}, not ready`, {
          kind: "failed-precondition",
          code: "SANDBOX_NOT_READY",
        });
      }
      return { url: streaming.offer({ kind: "portforward", dial: (port) => runtime.dialPort(sandbox.id, port) }) };
    },
  };
}

function requireRunning(runtime: Runtime, id: string) {
  const container = requireContainer(runtime, id);
  if (container.state === "running") return container;
  throw new RuntimeError(`container "${container.id}" is ${container.state}, not running`, {
    kind: "failed-precondition",
    code: "CONTAINER_NOT_RUNNING",
  });
}

/** api.proto, ExecRequest: at least one stream, and no stderr beside a terminal. */
function checkStreams({
  tty,
  stdin,
  stdout,
  stderr,
}: {
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}): void {
  if (!stdin && !stdout && !stderr)
    throw invalidField("stdin", "at least one of stdin, stdout and stderr must be true");
  if (tty && stderr) throw invalidField("stderr", "must be false with tty, which has one output");
}

/** A failure as a Kubernetes `Status`, for the client of a session. */
export function failureStatus(err: unknown): Readonly<Record<string, unknown>> & { readonly message: string } {
  const message = err instanceof Error ? err.message : String(err);
  return {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    reason: "InternalError",
    message,
    code: 500,
  };
}
