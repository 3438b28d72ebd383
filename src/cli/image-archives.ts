/**
 * `minke load` and `minke save`.
 */
import { resolve } from "node:path";
import { RuntimeError } from "../base/errors.js";
import type { SaveCompression, SaveFormat } from "../client/images.js";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { printJson } from "./image-list.js";
import { saveTarget } from "./save-target.js";

const COMPRESSIONS: readonly string[] = ["gzip", "zstd"] satisfies SaveCompression[];

/** What a format of the command is on the wire, and whether it ends as a directory. */
const FORMATS: Readonly<Record<string, { readonly archive: SaveFormat; readonly isDirectory: boolean }>> = {
  "docker-archive": { archive: "docker-archive", isDirectory: false },
  "oci-archive": { archive: "oci-archive", isDirectory: false },
  "docker-dir": { archive: "docker-archive", isDirectory: true },
  "oci-dir": { archive: "oci-archive", isDirectory: true },
};

export async function load(
  path: string | undefined,
  options: GlobalOptions & { readonly input?: string; readonly output?: string },
): Promise<void> {
  if (path === "" || options.input === "") throw badOption("the path to load from is empty");
  if (path !== undefined && options.input !== undefined)
    throw badOption("give the path once: as argument or as --input");
  const from = path ?? options.input ?? "-";
  if (from === "-" && process.stdin.isTTY)
    throw badOption("standard input is a terminal: name a file, or redirect one (minke load < image.tar)");
  const client = await connectTo(options);
  const items = await (from === "-" ? client.image.load(process.stdin) : client.loadImages(resolve(from)));
  if (options.output === "json") return printJson({ items });
  for (const { id, repoTags } of items) print(`loaded ${repoTags.join(", ") || id}`);
}

export async function save(
  names: readonly string[],
  options: GlobalOptions & { readonly output?: string; readonly format: string; readonly compress?: string },
): Promise<void> {
  const format = FORMATS[options.format];
  if (!format) throw badOption(`option --format: "${options.format}" is none of ${Object.keys(FORMATS).join(", ")}`);
  const { compress, output } = options;
  if (compress !== undefined && !COMPRESSIONS.includes(compress))
    throw badOption(`option --compress: "${compress}" is neither gzip nor zstd`);
  if (output === "") throw badOption("option --output: empty");
  if (format.isDirectory && (output === undefined || output === "-" || compress !== undefined))
    throw badOption(`format ${options.format} needs --output with a directory, and packs nothing`);
  if ((output === undefined || output === "-") && process.stdout.isTTY)
    throw badOption("standard output is a terminal: use --output, or redirect it");
  const target = await saveTarget(
    output === undefined || output === "-" ? undefined : resolve(output),
    format.isDirectory,
  );
  const client = await connectTo(options);
  const compression = (compress ?? "none") as SaveCompression;
  await target(await client.image.save(names, { format: format.archive, compression }));
}

function badOption(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "INVALID_REQUEST" });
}
