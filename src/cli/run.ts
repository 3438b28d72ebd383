/**
 * `minke run -f FILE [--wait]`: reads, checks, creates, and with `--wait` stays until the pod runs.
 *
 * A manifest that is wrong never reaches the daemon, and starts none. A pod that this command made
 * and that cannot start is removed again with `--wait`, unless `--keep`.
 */
import { readFile } from "node:fs/promises";
import { RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import type { MinkeClient, PodInput, PodJson } from "../client/index.js";
import { type Manifest, readManifest } from "../pod/manifest/read.js";
import { MANIFEST_LIMIT_BYTES, parseYamlDocuments } from "../pod/manifest/yaml.js";
import { MAX_TIMER_MS } from "../settings/fields.js";
import { connectTo, type GlobalOptions, note, print } from "./context.js";
import { podSummary, readyCount } from "./pod-view.js";
import { milliseconds } from "./table.js";

export interface RunOptions extends GlobalOptions {
  readonly filename: string;
  readonly wait?: boolean;
  readonly strict?: boolean;
  readonly keep?: boolean;
  /** Seconds. */
  readonly timeout: string;
}

/** The pods of a file, checked; `-` is standard input. */
export async function readPods(
  filename: string,
  options: { namespace: string; strict: boolean },
): Promise<Pick<Manifest, "pods" | "documents" | "configs"> & { warnings: readonly string[] }> {
  const source = filename === "-" ? "<stdin>" : filename;
  let text: string;
  try {
    text = filename === "-" ? await readStdin() : await readFile(filename, "utf8");
  } catch (err) {
    const { message } = toRuntimeError(err);
    throw new RuntimeError(`read manifest "${source}": ${message}`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
      cause: err,
    });
  }
  const { pods, documents, configs, warnings } = readManifest(parseYamlDocuments(text, source), {
    source,
    ...options,
  });
  if (pods.length === 0 && configs.length === 0)
    throw new RuntimeError(`manifest "${source}": there is nothing in it`, {
      kind: "invalid-argument",
      code: "INVALID_MANIFEST",
    });
  return { pods, documents, configs, warnings: warnings.map(({ path, message }) => `${path}: ${message}`) };
}

async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of process.stdin) {
    size += (chunk as Buffer).length;
    if (size > MANIFEST_LIMIT_BYTES + 1) break;
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString("utf8");
}

export async function runPods(options: RunOptions): Promise<void> {
  const { documents, configs, warnings } = await readPods(options.filename, {
    namespace: options.namespace,
    strict: options.strict ?? false,
  });
  for (const warning of warnings) note(`warning: ${warning}`);
  const timeoutMs = waitLimitMs(options.timeout);
  const client = await connectTo(options);
  const created: PodJson[] = [];
  const undo: (() => Promise<unknown>)[] = [];
  try {
    // Before the pods that may refer to them.
    for (const config of configs) {
      const { object, outcome } = await client.applyConfig(config);
      const { namespace, name } = object.metadata;
      print(`${config.kind.toLowerCase()}/${name} ${outcome}`);
      if (outcome === "created")
        undo.push(() => client.deleteConfig(config.kind === "Secret" ? "secrets" : "configmaps", namespace, name));
    }
    for (const document of documents) {
      // As it was written: the daemon fills in what is not said, and knows what was.
      const { pod: made } = await client.createPod(document as PodInput, {
        namespace: options.namespace,
        strict: options.strict ?? false,
      });
      created.push(made);
      print(`pod/${made.metadata.name} created`);
    }
    if (options.wait) await waitForAll(client, created, timeoutMs, options);
  } catch (err) {
    if (options.wait && !options.keep) {
      await removeAgain(client, created);
      for (const step of undo) await step().catch((why: unknown) => note(`warning: ${toRuntimeError(why).message}`));
    }
    throw err;
  }
  suggest(created, options);
}

/** @param text seconds. Longer than a timer can wait is as long as it can: 24.8 days. */
function waitLimitMs(text: string): number {
  const timeoutMs = Number(text) * 1000;
  if (timeoutMs > 0) return Math.min(timeoutMs, MAX_TIMER_MS);
  throw new RuntimeError(`option --timeout: "${text}" is not a number of seconds above 0`, {
    kind: "invalid-argument",
    code: "INVALID_REQUEST",
  });
}

async function waitForAll(
  client: MinkeClient,
  created: readonly PodJson[],
  timeoutMs: number,
  options: RunOptions,
): Promise<void> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeoutMs);
  try {
    await Promise.all(created.map((pod) => waitFor(client, pod, abort.signal, options)));
  } finally {
    clearTimeout(timer);
  }
}

async function waitFor(
  client: MinkeClient,
  { metadata }: PodJson,
  signal: AbortSignal,
  options: RunOptions,
): Promise<void> {
  const { namespace, name, uid } = metadata;
  let shown = "";
  for await (const { type, object: pod } of client.watchPods({ namespace, name, signal })) {
    if (pod.metadata.uid !== uid) continue;
    if (type === "DELETED")
      throw new RuntimeError(`pod "${name}" was deleted while it was waited for`, {
        kind: "aborted",
        code: "POD_NOT_FOUND",
      });
    const { ready, total } = readyCount(pod);
    const line = `pod/${name}: ${podSummary(pod)} (${ready}/${total} ready)`;
    if (line !== shown) progress(line);
    shown = line;
    const trouble = failureOf(pod);
    if (trouble) {
      endProgress();
      throw new RuntimeError(`pod "${name}": ${trouble}`, { kind: "failed-precondition", code: "POD_NOT_STARTED" });
    }
    if (isUp(pod)) {
      endProgress();
      await report(client, pod);
      return;
    }
  }
  endProgress();
  throw new RuntimeError(
    `pod "${name}" is not ready after ${options.timeout} s: it is ${shown.replace(/^[^:]*: /, "")}`,
    { kind: "deadline-exceeded", code: "POD_NOT_STARTED" },
  );
}

function isUp({ status }: PodJson): boolean {
  return (
    status.phase === "Succeeded" ||
    status.conditions.some(({ type, status: holds }) => type === "Ready" && holds === "True")
  );
}

const HOPELESS = new Set([
  "ErrImagePull",
  "ImagePullBackOff",
  "ErrImageNeverPull",
  "InvalidImageName",
  "CreateContainerError",
  "CreateContainerConfigError",
  "RunContainerError",
  "CrashLoopBackOff",
]);

/** Why a pod will not come up by itself, in words; `undefined` while it still may. */
function failureOf({ status }: PodJson): string | undefined {
  const sandbox = status.conditions.find(({ type }) => type === "PodReadyToStartContainers");
  if (sandbox?.status === "False" && sandbox.reason !== undefined)
    return sandbox.message ?? "the sandbox could not be made";
  for (const { name, state, lastState } of [...(status.initContainerStatuses ?? []), ...status.containerStatuses]) {
    const { waiting } = state;
    if (!waiting || !HOPELESS.has(waiting.reason)) continue;
    const last = waiting.reason === "CrashLoopBackOff" ? lastState.terminated : undefined;
    const why = last
      ? `it ended with exit code ${last.exitCode} (${last.reason}); see: minke logs --previous`
      : waiting.message;
    return `container "${name}": ${waiting.reason}: ${why ?? ""}`;
  }
  if (status.phase !== "Failed") return undefined;
  const ended = [...(status.initContainerStatuses ?? []), ...status.containerStatuses].find(
    ({ state }) => state.terminated && state.terminated.exitCode !== 0,
  );
  const end = ended?.state.terminated;
  return (
    status.message ??
    (end
      ? `container "${ended.name}" ended with exit code ${end.exitCode} (${end.reason})${end.message ? `: ${end.message}` : ""}`
      : "it failed")
  );
}

async function report(client: MinkeClient, pod: PodJson): Promise<void> {
  const { namespace, name } = pod.metadata;
  const { items } = await client.timeline(namespace, name);
  const [first] = items;
  const end = items.reduce((latest, span) => {
    const at = BigInt(span.startedAtNs) + BigInt(span.durationNs);
    return at > latest ? at : latest;
  }, 0n);
  const took = first ? ` in ${milliseconds(end - BigInt(first.startedAtNs))}` : "";
  const ips = (pod.status.podIPs ?? []).map(({ ip }) => ip).join(" ");
  print(`pod/${name} ${pod.status.phase === "Succeeded" ? "completed" : "ready"}${took}${ips ? `, at ${ips}` : ""}`);
}

async function removeAgain(client: MinkeClient, created: readonly PodJson[]): Promise<void> {
  for (const { metadata } of created) {
    const { namespace, name, uid } = metadata;
    try {
      await client.deletePod(namespace, name, { uid, graceSeconds: 2 });
      await client.waitGone(namespace, name, uid);
      note(`pod/${name} removed again; --keep leaves it for a look`);
    } catch (err) {
      const error = withContext(err, `remove pod "${name}" again`);
      if (error.kind !== "not-found") note(`warning: ${error.message}`);
    }
  }
}

function suggest(created: readonly PodJson[], options: RunOptions): void {
  const [pod] = created;
  if (!pod || (options.wait && !process.stdout.isTTY)) return;
  const { name, namespace } = pod.metadata;
  const scope = namespace === "default" ? "" : ` -n ${namespace}`;
  const container =
    (pod.spec.containers.length > 1 && pod.spec.containers[0] && ` -c ${pod.spec.containers[0].name}`) || "";
  const what = [
    ...(options.wait ? [] : [`minke get pods${scope} -w`]),
    `minke describe pod ${name}${scope}`,
    `minke logs -f ${name}${scope}${container}`,
    `minke exec -it ${name}${scope}${container} -- sh`,
    `minke delete pod ${name}${scope}`,
  ];
  note(`\ntry next:\n${what.map((line) => `  ${line}`).join("\n")}`);
}

/** One line that replaces itself on a terminal, plain lines elsewhere. */
function progress(line: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${line}`);
  else note(line);
}

function endProgress(): void {
  if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
}
