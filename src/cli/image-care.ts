/**
 * `minke image verify`, `minke image prune` and `minke df`.
 */
import { RuntimeError } from "../base/errors.js";
import type { CollectedImage, VerifiedPart } from "../client/images.js";
import { connectTo, EXIT, type GlobalOptions, note, print } from "./context.js";
import { printJson, shortDigest } from "./image-list.js";
import { parseDuration } from "./logs.js";
import { age, bytes, counted, table } from "./table.js";

type OutputOptions = GlobalOptions & { readonly output?: string };

/** Fails where damage is left. */
export async function verifyImages(
  names: readonly string[],
  options: OutputOptions & { readonly repair?: boolean },
): Promise<void> {
  const client = await connectTo(options);
  const items: VerifiedPart[] = [];
  for await (const part of client.image.verify(names, { repair: options.repair ?? false })) {
    items.push(part);
    if (options.output !== "json") showPart(part);
  }
  const damaged = items.filter(({ state }) => state === "damaged").length;
  if (damaged > 0) process.exitCode = EXIT.failed;
  if (options.output === "json") return printJson({ items });
  const count = (state: VerifiedPart["state"]) => items.filter((item) => item.state === state).length;
  const total = items.reduce((sum, item) => sum + item.bytes, 0);
  const others = (["repaired", "unrecorded"] as const).filter((state) => count(state) > 0);
  print(
    [`${count("sound")} sound`, `${damaged} damaged`, ...others.map((state) => `${count(state)} ${state}`)].join(", ") +
      ` (${bytes(total)})`,
  );
  if (damaged > 0 && !options.repair) note("nothing new is started from damaged layers; --repair fetches them again");
}

function showPart({ kind, digest, state, problems, problemCount, repairError }: VerifiedPart): void {
  if (state === "sound") return;
  print(`${state} ${kind} ${digest}`);
  for (const problem of problems) print(`    ${problem}`);
  if (problemCount > problems.length) print(`    and ${problemCount - problems.length} more`);
  if (repairError !== undefined) print(`    not repaired: ${repairError}`);
}

export async function pruneImages(
  options: OutputOptions & { readonly all?: boolean; readonly filter?: string; readonly dryRun?: boolean },
): Promise<void> {
  const until = options.filter === undefined ? undefined : untilOf(options.filter);
  const client = await connectTo(options);
  const result = await client.image.prune({ all: options.all ?? false, until, dryRun: options.dryRun ?? false });
  if (options.output === "json") return printJson(result);
  const would = result.dryRun ? "would be " : "";
  for (const { id, repoTags } of result.removed) print(`${would}removed ${repoTags.join(", ") || id}`);
  if (result.quarantinedLayers > 0)
    print(`${would}removed from quarantine: ${counted(result.quarantinedLayers, "layer")}`);
  const what = `${counted(result.removed.length, "image")}, ${counted(result.layers, "layer")}`;
  print(`${what}: ${bytes(result.freedBytes)} ${would}freed`);
}

function untilOf(filter: string): Date {
  const value = /^until=(.+)$/.exec(filter)?.[1];
  if (value === undefined) throw badFilter(filter);
  if (/^\d+[smhd]?$/.test(value)) return new Date(Date.now() - parseDuration(value, "--filter") * 1000);
  const date = new Date(value);
  if (Number.isNaN(date.getTime())) throw badFilter(filter);
  return date;
}

function badFilter(filter: string): RuntimeError {
  return new RuntimeError(`option --filter: "${filter}" is not until=24h or until=2026-01-31T00:00:00Z`, {
    kind: "invalid-argument",
    code: "INVALID_REQUEST",
  });
}

const WHY = { age: "unused for long", threshold: "the disk was full" } as const;

function showCollected(images: readonly CollectedImage[]): void {
  print("");
  const rows = images.map(({ id, repoTags, reason, freedBytes }) => [
    repoTags[0] ?? "<none>",
    shortDigest(id),
    WHY[reason],
    bytes(freedBytes),
  ]);
  print(table(["COLLECTED", "ID", "WHY", "FREED"], rows));
}

export async function showUsage(options: OutputOptions & { readonly verbose?: boolean }): Promise<void> {
  const client = await connectTo(options);
  const usage = await client.image.usage();
  if (options.output === "json") return printJson(usage);
  const { root, totalBytes, fileSystem, parts, images, lastCollection } = usage;
  print(
    `${root}: ${bytes(totalBytes)}; the file system is ${fileSystem.usedPercent}% full, ${bytes(fileSystem.freeBytes)} are free`,
  );
  if (lastCollection) {
    const freed = lastCollection.images.reduce((sum, { freedBytes }) => sum + freedBytes, 0);
    const what = counted(lastCollection.images.length, "unused image");
    print(`last collection ${age(lastCollection.at)} ago: ${what}, ${bytes(freed)} freed`);
  }
  print("");
  print(
    table(
      ["PART", "ITEMS", "SIZE"],
      parts.map(({ part, items, bytes: size }) => [part, String(items.length), bytes(size)]),
    ),
  );
  if (options.verbose) {
    print("");
    const rows = parts.flatMap(({ part, items }) => items.map((item) => [part, item.name, bytes(item.bytes)]));
    print(table(["PART", "WHAT", "SIZE"], rows));
    if (lastCollection) showCollected(lastCollection.images);
  }
  if (images.length === 0) return;
  print("");
  const rows = images.map(({ id, repoTags, isInUse, bytes: size, ownBytes, sharedBytes }) => [
    repoTags[0] ?? "<none>",
    shortDigest(id),
    isInUse ? "yes" : "no",
    bytes(size),
    bytes(ownBytes),
    bytes(sharedBytes),
  ]);
  print(table(["IMAGE", "ID", "USED", "SIZE", "OWN", "SHARED"], rows));
}
