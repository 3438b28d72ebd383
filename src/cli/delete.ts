/**
 * `minke delete pod NAME` and `minke delete pod -f FILE`.
 */
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { ConfigKind, MinkeClient } from "../client/index.js";
import { configKind } from "./config-objects.js";
import { connectTo, type GlobalOptions, note, print } from "./context.js";
import { splitKind } from "./describe.js";

/** A wait that is longer is explained. */
const SILENT_MS = 1_000;

export interface DeleteOptions extends GlobalOptions {
  readonly filename?: string;
  readonly gracePeriod?: string;
  readonly now?: boolean;
  readonly force?: boolean;
  readonly wait?: boolean;
  readonly ignoreNotFound?: boolean;
  readonly all?: boolean;
}

export async function deletePods(
  kind: string | undefined,
  names: readonly string[],
  options: DeleteOptions,
): Promise<void> {
  const { namespace, filename } = options;
  if (kind === undefined && filename === undefined) {
    throw new RuntimeError("say what to delete: minke delete pod NAME, or minke delete -f FILE", {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  }
  const file =
    filename === undefined
      ? undefined
      : await (await import("./run.js")).readPods(filename, { namespace, strict: false });
  const graceSeconds = graceOf(options);
  const ofKind = configKind(kind ?? "");
  const targets: Target[] = file
    ? file.pods.map(({ metadata }) => metadata)
    : ofKind
      ? []
      : podTargets(kind ?? "", names, options);
  const client = await connectTo(options);
  if (options.all && !ofKind) {
    const { items } = await client.listPods(namespace);
    targets.push(...items.map(({ metadata }) => metadata));
  }
  await Promise.all(targets.map((target) => deleteOne(client, target, graceSeconds, options)));
  // After the pods that may refer to them.
  for (const { kind: of, metadata } of file?.configs ?? [])
    await deleteConfig(client, of === "Secret" ? "secrets" : "configmaps", metadata, options);
  if (ofKind) for (const name of names) await deleteConfig(client, ofKind, { namespace, name }, options);
}

async function deleteConfig(
  client: MinkeClient,
  kind: ConfigKind,
  { namespace, name }: Target,
  options: DeleteOptions,
): Promise<void> {
  try {
    await client.deleteConfig(kind, namespace, name);
    print(`${kind.replace(/s$/, "")}/${name} deleted`);
  } catch (err) {
    if (!options.ignoreNotFound || toRuntimeError(err).kind !== "not-found") throw err;
  }
}

interface Target {
  readonly namespace: string;
  readonly name: string;
}

function podTargets(kind: string, names: readonly string[], options: DeleteOptions): Target[] {
  const { namespace } = options;
  if (options.all) {
    splitKind(`${kind}/all`, undefined);
    return [];
  }
  if (kind.includes("/")) return [kind, ...names].map((one) => ({ namespace, name: splitKind(one, undefined) }));
  splitKind(kind, names[0]);
  return names.map((name) => ({ namespace, name }));
}

function graceOf(options: DeleteOptions): number | undefined {
  if (options.force) return 0;
  if (options.now) return 1;
  if (options.gracePeriod === undefined) return undefined;
  if (!/^\d{1,9}$/.test(options.gracePeriod)) {
    throw new RuntimeError(`option --grace-period: "${options.gracePeriod}" is not a number of seconds`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  }
  return Number(options.gracePeriod);
}

async function deleteOne(
  client: MinkeClient,
  { namespace, name }: Target,
  graceSeconds: number | undefined,
  options: DeleteOptions,
): Promise<void> {
  try {
    const { metadata } = await client.deletePod(namespace, name, { graceSeconds });
    if (options.wait === false) return print(`pod/${name} is being deleted`);
    const seconds = metadata.deletionGracePeriodSeconds ?? 0;
    const timer = setTimeout(
      () => note(`pod/${name} is stopping, for at most ${seconds} s; --now and --force shorten that`),
      SILENT_MS,
    );
    try {
      await client.waitGone(namespace, name, metadata.uid);
    } finally {
      clearTimeout(timer);
    }
    print(`pod/${name} deleted`);
  } catch (err) {
    if (!options.ignoreNotFound || toRuntimeError(err).kind !== "not-found") throw err;
  }
}
