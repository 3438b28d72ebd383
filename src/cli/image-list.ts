/**
 * `minke image ls`, `inspect`, `history`, `tag` and `rm`.
 */
import { connectTo, type GlobalOptions, print, reportError } from "./context.js";
import { age, bytes, table } from "./table.js";

type OutputOptions = GlobalOptions & { readonly output?: string };

const COMMAND_WIDTH = 60;

export const shortDigest = (digest: string) => digest.replace("sha256:", "").slice(0, 13);

/** Builds that can be repeated date their images 1970, which says nothing. */
function ago(created: string | undefined): string {
  return created === undefined || !(Date.parse(created) > 0) ? "-" : `${age(created)} ago`;
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 4));
}

export async function listImages(options: OutputOptions & { readonly quiet?: boolean }): Promise<void> {
  const client = await connectTo(options);
  const images = await client.images();
  if (options.output === "json") return printJson({ items: images });
  if (options.output === "name")
    return printLines(images.flatMap(({ id, repoTags }) => (repoTags.length > 0 ? repoTags : [id])));
  if (options.quiet) return printLines(images.map(({ id }) => id));
  const rows = images.flatMap(({ id, repoTags, created, sizeBytes }) =>
    (repoTags.length > 0 ? repoTags : ["<none>"]).map((tag) => [tag, shortDigest(id), ago(created), bytes(sizeBytes)]),
  );
  print(table(["IMAGE", "ID", "CREATED", "SIZE"], rows));
}

function printLines(lines: readonly string[]): void {
  if (lines.length > 0) print(lines.join("\n"));
}

export async function inspectImages(names: readonly string[], options: OutputOptions): Promise<void> {
  const client = await connectTo(options);
  printJson(await client.image.inspect(names));
}

export async function showHistory(name: string, options: OutputOptions & { readonly trunc?: boolean }): Promise<void> {
  const client = await connectTo(options);
  const items = await client.image.history(name);
  if (options.output === "json") return printJson({ items });
  const rows = items.map(({ created, createdBy, comment, diffId, sizeBytes }) => {
    // A command may hold line breaks and tabs; a row may not.
    const command = createdBy.replace(/\s+/g, " ").trim();
    const isCut = options.trunc !== false && command.length > COMMAND_WIDTH;
    return [
      diffId === undefined ? "<none>" : shortDigest(diffId),
      ago(created),
      isCut ? `${command.slice(0, COMMAND_WIDTH - 1)}…` : command,
      bytes(sizeBytes),
      comment,
    ];
  });
  print(table(["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"], rows));
}

export async function tagImage(name: string, target: string, options: OutputOptions): Promise<void> {
  const client = await connectTo(options);
  const image = await client.image.tag(name, target);
  if (options.output === "json") printJson(image);
}

/** Goes on after an image that cannot be removed, and fails in the end. */
export async function removeImages(
  names: readonly string[],
  options: OutputOptions & { readonly force?: boolean },
): Promise<void> {
  const client = await connectTo(options);
  const items = [];
  for (const name of names) {
    try {
      const removed = await client.image.remove(name, { force: options.force ?? false });
      items.push(removed);
      if (options.output === "json") continue;
      for (const tag of removed.untagged) print(`untagged ${tag}`);
      if (removed.isRemoved) print(`removed ${removed.id}`);
    } catch (err) {
      reportError(err);
    }
  }
  if (options.output === "json") printJson({ items });
}
