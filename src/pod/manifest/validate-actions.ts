/**
 * The rules of probes and lifecycle hooks (Kubernetes validateProbe, validateHandler).
 */
import type { Hook, PodContainer, Probe } from "./schema.js";
import type { Add } from "./validate.js";

export function checkActions(container: PodContainer, path: string, add: Add): void {
  const { livenessProbe, readinessProbe, startupProbe, lifecycle } = container;
  const check = (action: Probe | Hook, at: string) => {
    const kinds = (["exec", "httpGet", "tcpSocket", "grpc", "sleep"] as const).filter(
      (kind) => Reflect.get(action, kind) !== undefined,
    );
    if (kinds.length !== 1) add(at, "exactly one of exec, httpGet, tcpSocket, grpc and sleep is required");
    if (action.exec?.command.length === 0) add(`${at}.exec.command`, "required");
    for (const kind of ["httpGet", "tcpSocket"] as const) {
      const port = action[kind]?.port;
      if (port === undefined || actionPort(container, port) !== undefined) continue;
      add(`${at}.${kind}.port`, `"${port}" is neither a port number nor the name of a port of this container`);
    }
  };
  for (const [name, probe] of Object.entries({ livenessProbe, readinessProbe, startupProbe })) {
    if (!probe) continue;
    const at = `${path}.${name}`;
    check(probe, at);
    if (probe.grpc && !isPort(probe.grpc.port)) add(`${at}.grpc.port`, `${probe.grpc.port} is not between 1 and 65535`);
    for (const field of ["timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] as const)
      if ((probe[field] ?? 1) < 1) add(`${at}.${field}`, "must be at least 1");
    if ((probe.initialDelaySeconds ?? 0) < 0) add(`${at}.initialDelaySeconds`, "must not be negative");
    if (name !== "readinessProbe" && (probe.successThreshold ?? 1) !== 1) add(`${at}.successThreshold`, "must be 1");
    const grace = probe.terminationGracePeriodSeconds;
    if (grace !== undefined && grace !== null && (name === "readinessProbe" || grace < 1))
      add(`${at}.terminationGracePeriodSeconds`, "must be at least 1, and is not for a readinessProbe");
  }
  if (lifecycle?.postStart) check(lifecycle.postStart, `${path}.lifecycle.postStart`);
  if (lifecycle?.preStop) check(lifecycle.preStop, `${path}.lifecycle.preStop`);
}

/** The number of a port that a probe or hook names; `undefined` where there is none. */
export function actionPort(container: Pick<PodContainer, "ports">, port: number | string): number | undefined {
  const number = /^\d+$/.test(String(port))
    ? Number(port)
    : container.ports?.find(({ name }) => name === port)?.containerPort;
  return number !== undefined && isPort(number) ? number : undefined;
}

const isPort = (port: number): boolean => port >= 1 && port <= 65535;
