/**
 * `minke stats`: what pods and their containers use. CPU is what was used between two readings.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../base/errors.js";
import type { MinkeClient, PodStatsJson } from "../client/index.js";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { bytes, table } from "./table.js";

export interface StatsOptions extends GlobalOptions {
  readonly allNamespaces?: boolean;
  readonly output?: string;
  readonly watch?: boolean;
}

const FIRST_INTERVAL_MS = 500;
const WATCH_INTERVAL_MS = 2_000;
const CLEAR_SCREEN = "\u001b[H\u001b[2J";

export async function showStats(pod: string | undefined, options: StatsOptions): Promise<void> {
  if (options.output !== undefined && options.output !== "json") {
    throw new RuntimeError(`option --output: "${options.output}" is not json`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  }
  const client = await connectTo(options);
  const namespace = options.allNamespaces ? undefined : options.namespace;
  const read = () => client.stats({ namespace, name: pod });
  let before = await read();
  for (let intervalMs = FIRST_INTERVAL_MS; ; intervalMs = WATCH_INTERVAL_MS) {
    await sleep(intervalMs);
    const now = await read();
    if (options.output === "json")
      print(JSON.stringify(options.watch ? now : { items: now }, null, options.watch ? 0 : 4));
    else show(statsTable(before, now, options.allNamespaces ?? false), options);
    if (!options.watch) return;
    before = now;
  }
}

function show(text: string, { watch, namespace, allNamespaces }: StatsOptions): void {
  if (watch && process.stdout.isTTY) process.stdout.write(CLEAR_SCREEN);
  if (text !== "") return print(text);
  process.stderr.write(
    allNamespaces ? "No running pods found.\n" : `No running pods found in namespace ${namespace}.\n`,
  );
}

type Usage = Awaited<ReturnType<MinkeClient["stats"]>>[number]["containers"][number];

/** A line for each pod and, below it, for each of its containers; empty without a pod. */
export function statsTable(
  before: readonly PodStatsJson[],
  now: readonly PodStatsJson[],
  withNamespace: boolean,
): string {
  if (now.length === 0) return "";
  const rows = now.flatMap((pod) => {
    const earlier = before.find(({ metadata }) => metadata.uid === pod.metadata.uid);
    const sum = (key: "rxBytes" | "txBytes") => pod.interfaces.reduce((total, link) => total + Number(link[key]), 0);
    const net = pod.interfaces.length === 0 ? "-" : `${bytes(sum("rxBytes"))} / ${bytes(sum("txBytes"))}`;
    const namespace = withNamespace ? [pod.metadata.namespace] : [];
    const layers = pod.containers.reduce((total, { layerBytes }) => total + Number(layerBytes), 0);
    return [
      [...namespace, pod.metadata.name, ...usageCells(earlier, pod), bytes(layers), net],
      ...pod.containers.map((container) => {
        const last = earlier?.containers.find(({ name }) => name === container.name);
        const cells = usageCells(last, container);
        return [...namespace.map(() => ""), `  ${container.name}`, ...cells, bytes(Number(container.layerBytes)), ""];
      }),
    ];
  });
  return table(
    [...(withNamespace ? ["NAMESPACE"] : []), "NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "DISK", "NET RX / TX"],
    rows,
  );
}

function usageCells(
  before: Omit<Usage, "name" | "layerBytes"> | undefined,
  now: Omit<Usage, "name" | "layerBytes">,
): string[] {
  const { workingSetBytes, memoryLimitBytes, processes } = now;
  return [
    cpuCell(before, now),
    bytes(Number(workingSetBytes)),
    memoryLimitBytes === undefined ? "-" : bytes(Number(memoryLimitBytes)),
    String(processes),
  ];
}

/** In thousandths of a core, as Kubernetes writes it; `-` for what was not there, or began again, meanwhile. */
function cpuCell(before: Pick<Usage, "atNs" | "cpuNs"> | undefined, now: Pick<Usage, "atNs" | "cpuNs">): string {
  if (!before) return "-";
  const [elapsedNs, usedNs] = [BigInt(now.atNs) - BigInt(before.atNs), BigInt(now.cpuNs) - BigInt(before.cpuNs)];
  return elapsedNs <= 0n || usedNs < 0n ? "-" : `${(usedNs * 1000n) / elapsedNs}m`;
}
