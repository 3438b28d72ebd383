/**
 * The image routes besides list, pull and load: details, names, archives, verification, prune, and
 * where the disk went. Images are named in the query or body: their names hold slashes.
 */
import type { ServerResponse } from "node:http";
import type { KnownNames } from "../image/disk-usage.js";
import type { ImageCare } from "../image/image-care.js";
import type { SaveCompression, SaveFormat } from "../image/image-save.js";
import {
  type ApiRequest,
  answer,
  clientSignal,
  invalidRequest,
  readJsonObject,
  toJson,
  writeBounded,
} from "./request.js";
import { toStatusObject } from "./status-object.js";

export interface ImageCareService
  extends Pick<ImageCare, "details" | "history" | "tag" | "removeByName" | "save" | "verify" | "prune" | "usage"> {}

export interface ImageCareOptions {
  readonly care: ImageCareService;
  /** Whose directories are below the root. */
  readonly knownNames: () => KnownNames;
  /** Prune takes images that came through CRI, too. */
  readonly prunesCri: boolean;
}

const FORMATS: readonly string[] = ["docker-archive", "oci-archive"] satisfies SaveFormat[];
const COMPRESSIONS: readonly string[] = ["none", "gzip", "zstd"] satisfies SaveCompression[];
/** The Status of what broke a stream that had begun, as JSON, percent-encoded. */
const ERROR_TRAILER = "x-minke-error";

type Route = (request: ApiRequest, response: ServerResponse) => Promise<void>;

export function imageCareRoutes({ care, knownNames, prunesCri }: ImageCareOptions): [string, string, Route][] {
  return [
    [
      "GET",
      "/minke/v1/images/inspect",
      async ({ query }, response) => {
        answer(response, 200, { items: await Promise.all(namesIn(query).map((name) => care.details(name))) });
      },
    ],
    [
      "GET",
      "/minke/v1/images/history",
      async ({ query }, response) => answer(response, 200, { items: await care.history(namesIn(query)[0] ?? "") }),
    ],
    [
      "POST",
      "/minke/v1/images/tag",
      async (request, response) => {
        const { source, target } = await readJsonObject(request.message);
        if (typeof source !== "string" || typeof target !== "string") throw invalidRequest("source, target: required");
        const { id, repoTags, repoDigests, sizeBytes } = await care.tag(source, target);
        answer(response, 200, { id, repoTags, repoDigests, sizeBytes });
      },
    ],
    [
      "POST",
      "/minke/v1/images/remove",
      async (request, response) => {
        const { name, force = false } = await readJsonObject(request.message);
        if (typeof name !== "string" || name === "") throw invalidRequest("name: required");
        answer(response, 200, await care.removeByName(name, boolean(force, "force")));
      },
    ],
    ["GET", "/minke/v1/images/save", (request, response) => save(care, request, response)],
    ["POST", "/minke/v1/images/verify", (request, response) => verify(care, request, response)],
    ["POST", "/minke/v1/images/prune", (request, response) => prune(care, prunesCri, request, response)],
    ["GET", "/minke/v1/df", async (_request, response) => answer(response, 200, await care.usage(knownNames()))],
  ];
}

function namesIn(query: URLSearchParams): string[] {
  const names = query.getAll("name");
  if (names.length === 0 || names.includes("")) throw invalidRequest("parameter name: required");
  return names;
}

function boolean(value: unknown, name: string): boolean {
  if (typeof value !== "boolean") throw invalidRequest(`${name}: must be true or false`);
  return value;
}

/** The bytes of the archive; a failure after the first of them is told in a trailer. */
async function save(care: ImageCareService, { query }: ApiRequest, response: ServerResponse): Promise<void> {
  const format = query.get("format") ?? "docker-archive";
  const compression = query.get("compression") ?? "none";
  if (!FORMATS.includes(format)) throw invalidRequest(`parameter format: one of ${FORMATS.join(", ")}`);
  if (!COMPRESSIONS.includes(compression))
    throw invalidRequest(`parameter compression: one of ${COMPRESSIONS.join(", ")}`);
  const archive = await care.save({
    names: namesIn(query),
    format: format as SaveFormat,
    compression: compression as SaveCompression,
    signal: clientSignal(response),
  });
  response.writeHead(200, { "content-type": "application/x-tar", trailer: ERROR_TRAILER });
  try {
    for await (const chunk of archive) {
      if (!(await writeBounded(response, chunk as Buffer))) return;
    }
  } catch (err) {
    response.addTrailers({ [ERROR_TRAILER]: encodeURIComponent(toJson(toStatusObject(err))) });
  }
  response.end();
}

/** One JSON object a line: `{part}` for each that has been looked at, then `{done: true}` or `{error}`. */
async function verify(care: ImageCareService, request: ApiRequest, response: ServerResponse): Promise<void> {
  const { names = [], repair = false } = await readJsonObject(request.message);
  if (!Array.isArray(names) || !names.every((name): name is string => typeof name === "string"))
    throw invalidRequest("names: must be a list of images");
  const signal = clientSignal(response);
  const isRepair = boolean(repair, "repair");
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  try {
    await care.verify({ names, repair: isRepair, signal, onPart: (part) => response.write(`${toJson({ part })}\n`) });
    response.end(`${toJson({ done: true })}\n`);
  } catch (err) {
    response.end(`${toJson({ error: toStatusObject(err) })}\n`);
  }
}

async function prune(
  care: ImageCareService,
  includesCri: boolean,
  request: ApiRequest,
  response: ServerResponse,
): Promise<void> {
  const { all = false, until, dryRun = false } = await readJsonObject(request.message);
  const untilMs = until === undefined ? undefined : Date.parse(typeof until === "string" ? until : "");
  if (Number.isNaN(untilMs)) throw invalidRequest("until: must be an RFC 3339 time");
  const result = await care.prune({
    all: boolean(all, "all"),
    dryRun: boolean(dryRun, "dryRun"),
    untilNs: untilMs === undefined ? undefined : BigInt(untilMs) * 1_000_000n,
    includesCri,
  });
  answer(response, 200, result);
}
