/**
 * `minke describe pod NAME`: what it is, how it is, what happened, and where the time of its start went.
 */
import { RuntimeError } from "../base/errors.js";
import type { EventJson, PodJson, TimelineSpan } from "../client/index.js";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { podSummary } from "./pod-view.js";
import { age, milliseconds, table } from "./table.js";

const BAR_WIDTH = 40;

/** `describe pod NAME` and `describe pod/NAME`. */
export function splitKind(kind: string, name: string | undefined): string {
  const [word = "", inline] = kind.split("/");
  if (!["pod", "pods", "po"].includes(word)) {
    throw new RuntimeError(`"${word}" is not a kind of object; use pod`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  }
  const found = inline ?? name;
  if (!found)
    throw new RuntimeError("the name of a pod is required", { kind: "invalid-argument", code: "INVALID_REQUEST" });
  return found;
}

export async function describe(kind: string, name: string | undefined, options: GlobalOptions): Promise<void> {
  const podName = splitKind(kind, name);
  const client = await connectTo(options);
  const pod = await client.getPod(options.namespace, podName);
  const [events, timeline] = await Promise.all([
    client.events(options.namespace, pod.metadata.uid),
    client.timeline(options.namespace, podName),
  ]);
  print(
    [
      ...head(pod),
      ...containerLines(pod),
      ...conditionLines(pod),
      ...warningLines(timeline.warnings),
      ...timelineLines(timeline.items),
      ...eventLines(events),
    ].join("\n"),
  );
}

function head(pod: PodJson): string[] {
  const { metadata, status, spec } = pod;
  const pairs = (values: Record<string, string> | undefined) =>
    Object.entries(values ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .join(", ") || "<none>";
  const rows: [string, string][] = [
    ["Name", metadata.name],
    ["Namespace", metadata.namespace],
    ["UID", metadata.uid],
    ["Created", when(metadata.creationTimestamp)],
    ["Labels", pairs(metadata.labels)],
    ["Annotations", pairs(metadata.annotations)],
    ["Status", podSummary(pod)],
    ...(status.message ? ([["Message", status.message]] as [string, string][]) : []),
    ["IPs", (status.podIPs ?? []).map(({ ip }) => ip).join(", ") || "<none>"],
    ["QoS class", status.qosClass],
    ["Restart policy", spec.restartPolicy],
    ["Volumes", (spec.volumes ?? []).map((v) => `${v.name} (${volumeText(v)})`).join(", ") || "<none>"],
  ];
  return rows.map(([key, value]) => `${`${key}:`.padEnd(17)}${value}`);
}

function volumeText(volume: NonNullable<PodJson["spec"]["volumes"]>[number]): string {
  const { hostPath, emptyDir, configMap, secret } = volume;
  if (hostPath) return `hostPath ${hostPath.path}`;
  if (configMap) return `configMap ${configMap.name}`;
  if (secret) return `secret ${secret.secretName}`;
  if (volume.downwardAPI) return "downwardAPI";
  if (volume.projected) return "projected";
  return emptyDir?.medium === "Memory" ? "emptyDir in memory" : "emptyDir";
}

function containerLines(pod: PodJson): string[] {
  const groups: [string, PodJson["status"]["containerStatuses"]][] = [
    ["Init containers", pod.status.initContainerStatuses ?? []],
    ["Containers", pod.status.containerStatuses],
  ];
  return groups.flatMap(([title, statuses]) =>
    statuses.length === 0 ? [] : ["", `${title}:`, ...statuses.flatMap(oneContainer)],
  );
}

function oneContainer(status: PodJson["status"]["containerStatuses"][number]): string[] {
  const lines = [`  ${status.name}:`, `    Image:     ${status.image}`, `    State:     ${stateText(status.state)}`];
  if (status.lastState.terminated) lines.push(`    Before:    ${stateText(status.lastState)}`);
  lines.push(`    Ready:     ${status.ready ? "yes" : "no"}`, `    Restarts:  ${status.restartCount}`);
  if (status.containerID) lines.push(`    Id:        ${status.containerID.replace("minke://", "").slice(0, 13)}`);
  return lines;
}

function stateText({ running, waiting, terminated }: PodJson["status"]["containerStatuses"][number]["state"]): string {
  if (running) return `running since ${when(running.startedAt)}`;
  if (waiting) return `waiting: ${waiting.reason}${waiting.message ? ` (${waiting.message})` : ""}`;
  if (!terminated) return "unknown";
  const by = terminated.signal ? `, signal ${terminated.signal}` : "";
  const message = terminated.message ? ` (${terminated.message.trim()})` : "";
  return `ended ${when(terminated.finishedAt)} with exit code ${terminated.exitCode}${by}: ${terminated.reason}${message}`;
}

const when = (time: string): string => `${time} (${age(time)} ago)`;

function conditionLines({ status }: PodJson): string[] {
  return [
    "",
    "Conditions:",
    ...status.conditions.map((c) => `  ${c.type.padEnd(28)}${c.status.padEnd(7)}${c.message ?? ""}`.trimEnd()),
  ];
}

function warningLines(warnings: readonly { path: string; message: string }[]): string[] {
  return warnings.length === 0
    ? []
    : ["", "Fields without effect:", ...warnings.map(({ path, message }) => `  ${path}: ${message}`)];
}

/** Each step with when it began, how long it took, and a bar over the whole start. */
export function timelineLines(spans: readonly TimelineSpan[]): string[] {
  const [first] = spans;
  if (!first) return [];
  const begin = BigInt(first.startedAtNs);
  const ends = spans.map((span) => BigInt(span.startedAtNs) + BigInt(span.durationNs));
  const total = ends.reduce((a, b) => (a > b ? a : b)) - begin;
  const rows = spans.map((span) => {
    const from = BigInt(span.startedAtNs) - begin;
    const duration = BigInt(span.durationNs);
    const scale = (ns: bigint) => (total === 0n ? 0 : Math.round((Number(ns) / Number(total)) * BAR_WIDTH));
    const start = Math.min(scale(from), BAR_WIDTH - 1);
    const bar = " ".repeat(start) + "#".repeat(Math.max(1, Math.min(scale(duration), BAR_WIDTH - start)));
    return [
      `  ${span.name}${span.subject ? ` ${span.subject}` : ""}`,
      `+${milliseconds(from)}`,
      milliseconds(duration),
      bar,
    ];
  });
  return [
    "",
    "Timeline:",
    ...table(["  STEP", "BEGAN", "TOOK", ""], rows).split("\n"),
    `  whole start: ${milliseconds(total)}`,
  ];
}

function eventLines(events: readonly EventJson[]): string[] {
  if (events.length === 0) return [];
  const rows = events.map((e) => [
    `  ${e.type}`,
    e.reason,
    `${age(e.lastTimestamp)}${e.count > 1 ? ` (${e.count} times in ${age(e.firstTimestamp)})` : ""}`,
    e.involvedObject.fieldPath?.replace(/^spec\.\w+\{(.*)\}$/, "$1") ?? "",
    e.message,
  ]);
  return ["", "Events:", table(["  TYPE", "REASON", "AGE", "CONTAINER", "MESSAGE"], rows)];
}
