/**
 * `minke get pods` and `minke get events`.
 */
import { RuntimeError } from "../base/errors.js";
import type { MinkeClient, PodJson } from "../client/index.js";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { podHeader, podRow, podTable } from "./pod-view.js";
import { age, table } from "./table.js";

export interface GetOptions extends GlobalOptions {
  readonly allNamespaces?: boolean;
  readonly output?: string;
  readonly watch?: boolean;
}

const FORMATS = ["wide", "json", "yaml", "name"];

export async function getPods(name: string | undefined, options: GetOptions): Promise<void> {
  if (options.output !== undefined && !FORMATS.includes(options.output)) {
    throw new RuntimeError(`option --output: "${options.output}" is not one of ${FORMATS.join(", ")}`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  }
  const client = await connectTo(options);
  const namespace = options.allNamespaces ? undefined : options.namespace;
  if (options.watch) return watch(client, name, namespace, options);
  if (name !== undefined) return show([await client.getPod(options.namespace, name)], true, options);
  const { items } = await client.listPods(namespace);
  await show(items, false, options);
}

async function show(pods: readonly PodJson[], isSingle: boolean, options: GetOptions): Promise<void> {
  const value = isSingle ? pods[0] : { apiVersion: "v1", kind: "List", items: pods };
  if (options.output === "json") return print(JSON.stringify(value, null, 4));
  if (options.output === "yaml") {
    const { stringify } = await import("yaml");
    return print(stringify(value, { version: "1.1", aliasDuplicateObjects: false }));
  }
  if (options.output === "name") return pods.forEach(({ metadata }) => print(`pod/${metadata.name}`));
  if (pods.length === 0) {
    process.stderr.write(
      options.allNamespaces ? "No pods found.\n" : `No pods found in namespace ${options.namespace}.\n`,
    );
    return;
  }
  print(podTable(pods, { wide: options.output === "wide", withNamespace: options.allNamespaces ?? false }));
}

async function watch(
  client: MinkeClient,
  name: string | undefined,
  namespace: string | undefined,
  options: GetOptions,
): Promise<void> {
  const view = { wide: options.output === "wide", withNamespace: options.allNamespaces ?? false };
  const widths: number[] = [];
  // Columns only grow: lines that are already printed cannot move.
  const line = (cells: readonly string[]) => {
    cells.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
    print(
      cells
        .map((cell, i) => cell.padEnd((widths[i] ?? 0) + 3))
        .join("")
        .trimEnd(),
    );
  };
  if (options.output !== "json") line(podHeader(view));
  let before = "";
  for await (const { object } of client.watchPods({ namespace, name })) {
    if (options.output === "json") {
      print(JSON.stringify(object));
      continue;
    }
    const cells = podRow(object, view);
    if (cells.join() !== before) line(cells);
    before = cells.join();
  }
}

export async function getEvents(options: GlobalOptions): Promise<void> {
  const client = await connectTo(options);
  const events = (await client.events(options.namespace)).sort((a, b) => (a.lastTimestamp < b.lastTimestamp ? -1 : 1));
  if (events.length === 0) {
    process.stderr.write(`No events found in namespace ${options.namespace}.\n`);
    return;
  }
  const rows = events.map((e) => [age(e.lastTimestamp), e.type, e.reason, `pod/${e.involvedObject.name}`, e.message]);
  print(table(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], rows));
}
