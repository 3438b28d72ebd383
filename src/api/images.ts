/**
 * The image routes of minke's own: list, pull with progress, load from a layout or archive.
 */
import type { ServerResponse } from "node:http";
import { isAbsolute } from "node:path";
import type { Readable } from "node:stream";
import { type ApiRequest, answer, clientSignal, invalidRequest, readJsonObject, toJson } from "./request.js";
import { toStatusObject } from "./status-object.js";

/** The part of an image record that is shown. */
export interface ListedImage {
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly sizeBytes: number;
  /** RFC 3339: when it was made, as it says itself. */
  readonly created?: string | undefined;
  /** RFC 3339: when it was last pulled or loaded. */
  readonly pulled?: string | undefined;
}

/** As the store has it. */
export interface StoredImage extends Omit<ListedImage, "created" | "pulled"> {
  /** Unix ns, decimal; 0: the image does not say. */
  readonly createdAtNs?: string | undefined;
  readonly pulledAtNs?: string | undefined;
}

/** What the routes need of the image store. */
export interface ImageService {
  list(): readonly StoredImage[];
  pull(
    reference: string,
    options: { readonly signal: AbortSignal; readonly onProgress: (progress: object) => void },
  ): Promise<StoredImage>;
  /** What a pull would do; as JSON without secrets. */
  explain(reference: string, options: { readonly signal: AbortSignal }): Promise<object>;
  /** @param from an absolute path, or the bytes of an archive */
  loadLayout(from: string | Readable, options: { readonly signal: AbortSignal }): Promise<readonly StoredImage[]>;
}

/** Progress that a slow client has not read is dropped, not kept. */
const PROGRESS_BACKLOG_BYTES = 256 * 1024;

export function listImages(images: ImageService, response: ServerResponse): void {
  answer(response, 200, { items: images.list().map(shown) });
}

/**
 * One JSON object a line: `{progress}` while it lasts, then `{image}` or `{error}`. With
 * `explain: true` nothing is pulled, and the answer is one object that says what a pull would do.
 */
export async function pullImage(images: ImageService, request: ApiRequest, response: ServerResponse): Promise<void> {
  const { reference, explain = false } = await readJsonObject(request.message);
  if (typeof reference !== "string" || reference === "") throw invalidRequest("reference: required");
  if (typeof explain !== "boolean") throw invalidRequest("explain: must be true or false");
  const signal = clientSignal(response);
  if (explain) return answer(response, 200, await images.explain(reference, { signal }));
  const onProgress = (progress: object) => {
    if (!response.destroyed && response.writableLength < PROGRESS_BACKLOG_BYTES)
      response.write(`${toJson({ progress })}\n`);
  };
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  try {
    const image = await images.pull(reference, { signal, onProgress });
    response.end(`${toJson({ image: shown(image) })}\n`);
  } catch (err) {
    response.end(`${toJson({ error: toStatusObject(err) })}\n`);
  }
}

/** Of `{path}`, or of the body's own bytes where it says that it is a tar archive. */
export async function loadImages(images: ImageService, request: ApiRequest, response: ServerResponse): Promise<void> {
  const signal = clientSignal(response);
  if (request.message.headers["content-type"] === "application/x-tar") {
    const loaded = await images.loadLayout(request.message, { signal });
    return answer(response, 200, { items: loaded.map(shown) });
  }
  const { path } = await readJsonObject(request.message);
  if (typeof path !== "string" || !isAbsolute(path)) throw invalidRequest("path: an absolute path is required");
  answer(response, 200, { items: (await images.loadLayout(path, { signal })).map(shown) });
}

function shown({ id, repoTags, repoDigests, sizeBytes, createdAtNs, pulledAtNs }: StoredImage): ListedImage {
  const [created, pulled] = [createdAtNs, pulledAtNs].map(timeOf);
  return { id, repoTags, repoDigests, sizeBytes, ...(created && { created }), ...(pulled && { pulled }) };
}

function timeOf(unixNs: string | undefined): string | undefined {
  if (unixNs === undefined || unixNs === "0") return undefined;
  return new Date(Number(BigInt(unixNs) / 1_000_000n)).toISOString();
}
