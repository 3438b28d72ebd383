/**
 * `minke pull`, `images`, `load` and `version`.
 */
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { bytes, table } from "./table.js";

/** What the image store says of each layer while it pulls (`LayerProgress` of src/image); what is absent is not shown. */
interface Progress {
  readonly digest?: string;
  readonly state?: string;
  readonly currentBytes?: number;
  readonly totalBytes?: number;
}

export async function pull(reference: string, options: GlobalOptions): Promise<void> {
  const client = await connectTo(options);
  const lines = new ProgressLines();
  try {
    const image = await client.pullImage(reference, (progress) => lines.show(progress));
    lines.end();
    print(`${image.repoTags[0] ?? image.repoDigests[0] ?? reference} ${image.id} (${bytes(image.sizeBytes)})`);
  } finally {
    lines.end();
  }
}

/** On a terminal a line for each layer that is written over; elsewhere a line for each change of stage. */
class ProgressLines {
  readonly #layers = new Map<string, Progress>();
  readonly #isTerminal = process.stderr.isTTY;
  #printed = 0;

  show(progress: Progress): void {
    const key = progress.digest ?? "";
    const before = this.#layers.get(key);
    this.#layers.set(key, { ...before, ...progress });
    if (this.#isTerminal) this.#redraw();
    else if (before?.state !== progress.state && progress.state) process.stderr.write(`${line(progress)}\n`);
  }

  end(): void {
    this.#layers.clear();
    this.#printed = 0;
  }

  #redraw(): void {
    if (this.#printed > 0) process.stderr.write(`\u001b[${this.#printed}A`);
    for (const progress of this.#layers.values()) process.stderr.write(`\u001b[K${line(progress)}\n`);
    this.#printed = this.#layers.size;
  }
}

function line({ digest, state, currentBytes, totalBytes }: Progress): string {
  const name = digest ? digest.replace("sha256:", "").slice(0, 12) : "image";
  const amount = currentBytes ? ` ${bytes(currentBytes)}${totalBytes ? ` of ${bytes(totalBytes)}` : ""}` : "";
  return `${name}: ${state ?? ""}${amount}`;
}

export async function listImages(options: GlobalOptions & { output?: string }): Promise<void> {
  const client = await connectTo(options);
  const images = await client.images();
  if (options.output === "json") return print(JSON.stringify({ items: images }, null, 4));
  const rows = images.flatMap(({ id, repoTags, sizeBytes }) =>
    (repoTags.length > 0 ? repoTags : ["<none>"]).map((tag) => [
      tag,
      id.replace("sha256:", "").slice(0, 13),
      bytes(sizeBytes),
    ]),
  );
  print(table(["IMAGE", "ID", "SIZE"], rows));
}

export async function load(path: string, options: GlobalOptions): Promise<void> {
  const client = await connectTo(options);
  for (const { id, repoTags } of await client.loadImages(resolve(path))) print(`loaded ${repoTags.join(", ") || id}`);
}

/** Ends with the code of an unreachable daemon where none runs: scripts ask so whether one does. */
export async function showVersion(options: GlobalOptions): Promise<void> {
  const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };
  print(`minke ${version}`);
  const client = await connectTo(options, { startDaemon: false });
  const daemon = await client.version();
  print(`daemon ${daemon.minkeVersion} (Kubernetes API ${daemon.gitVersion.replace(/\+.*/, "")}, ${daemon.platform})`);
}
