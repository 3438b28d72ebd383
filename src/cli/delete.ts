/**
 * `minke delete pod NAME` and `minke delete pod -f FILE`.
 */
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { MinkeClient } from "../client/index.js";
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
  const targets = await targetsOf(kind, names, options);
  const graceSeconds = graceOf(options);
  const client = await connectTo(options);
  if (options.all) {
    const { items } = await client.listPods(options.namespace);
    targets.push(...items.map(({ metadata }) => ({ namespace: metadata.namespace, name: metadata.name })));
  }
  await Promise.all(targets.map((target) => deleteOne(client, target, graceSeconds, options)));
}

interface Target {
  readonly namespace: string;
  readonly name: string;
}

async function targetsOf(kind = "", names: readonly string[], options: DeleteOptions): Promise<Target[]> {
  const { namespace } = options;
  if (options.filename !== undefined) {
    const { readPods } = await import("./run.js");
    const { pods } = await readPods(options.filename, { namespace, strict: false });
    return pods.map(({ metadata }) => ({ namespace: metadata.namespace, name: metadata.name }));
  }
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
