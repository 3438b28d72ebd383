/**
 * Image references: `[registry/]repository[:tag][@digest]`, by the grammar of Docker's and OCI's
 * reference implementation (distribution/reference), with its normalisation to `docker.io/library`.
 *
 * Pure. A reference says where an image is looked for; the image id says what it is.
 */
import { RuntimeError } from "../base/errors.js";
import { type Digest, isDigest } from "../base/ids.js";

export interface ImageReference {
  /** Host with port where it has one: `docker.io`, `127.0.0.1:5000`, `[::1]:5000`. */
  readonly registry: string;
  /** Path inside the registry: `library/busybox`. */
  readonly repository: string;
  readonly tag?: string | undefined;
  readonly digest?: Digest | undefined;
  /** Normalised, as image records hold it. */
  toString(): string;
}

const DEFAULT_REGISTRY = "docker.io";
const OFFICIAL_NAMESPACE = "library";
const MAX_NAME_LENGTH = 255;

const PATH_COMPONENT = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const REPOSITORY = new RegExp(`^${PATH_COMPONENT}(?:/${PATH_COMPONENT})*$`);
const DOMAIN_LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const DOMAIN = new RegExp(`^(?:${DOMAIN_LABEL}(?:\\.${DOMAIN_LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const BARE_ID = /^[a-f0-9]{64}$/;

/**
 * Parses and normalises. Without tag and digest the tag is `latest`; with a digest and no tag there is none.
 *
 * @throws RuntimeError `invalid-argument` INVALID_REFERENCE
 */
export function parseReference(text: string): ImageReference {
  const invalid = (problem: string) =>
    new RuntimeError(`parse image reference "${text}": ${problem}`, {
      kind: "invalid-argument",
      code: "INVALID_REFERENCE",
    });
  if (text === "") throw invalid("empty");
  if (BARE_ID.test(text)) throw invalid("64 hex digits are an image id");

  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !isDigest(digest))
    throw invalid(`"${digest}" is not sha256: and 64 lower-case hex digits`);
  const beforeDigest = at < 0 ? text : text.slice(0, at);

  const colon = beforeDigest.lastIndexOf(":");
  const hasTag = colon > beforeDigest.lastIndexOf("/") && colon > beforeDigest.lastIndexOf("]");
  const tag = hasTag ? beforeDigest.slice(colon + 1) : undefined;
  if (tag !== undefined && !TAG.test(tag)) throw invalid(`"${tag}" is not a tag`);

  const { registry, repository } = splitName(hasTag ? beforeDigest.slice(0, colon) : beforeDigest);
  if (!DOMAIN.test(registry)) throw invalid(`"${registry}" is not a registry host`);
  if (!REPOSITORY.test(repository)) {
    const hint = repository !== repository.toLowerCase() ? " (names are lower-case)" : "";
    throw invalid(`"${repository}" is not a repository name${hint}`);
  }
  if (registry.length + 1 + repository.length > MAX_NAME_LENGTH)
    throw invalid(`name is longer than ${MAX_NAME_LENGTH} characters`);
  return makeReference(registry, repository, tag ?? (digest === undefined ? "latest" : undefined), digest);
}

/** The first part is a host only if it looks like one: it has a dot or a port, or is `localhost`, or has upper-case letters. */
function splitName(name: string): { registry: string; repository: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase();
  const registry = isHost ? first : DEFAULT_REGISTRY;
  const path = isHost ? name.slice(slash + 1) : name;
  if (registry !== DEFAULT_REGISTRY && registry !== "index.docker.io") return { registry, repository: path };
  return { registry: DEFAULT_REGISTRY, repository: path.includes("/") ? path : `${OFFICIAL_NAMESPACE}/${path}` };
}

function makeReference(
  registry: string,
  repository: string,
  tag: string | undefined,
  digest: Digest | undefined,
): ImageReference {
  const name = `${registry}/${repository}${tag === undefined ? "" : `:${tag}`}${digest === undefined ? "" : `@${digest}`}`;
  return { registry, repository, tag, digest, toString: () => name };
}

/** `registry/repository:tag`, as a record's repoTags hold it; `undefined` for a reference by digest. */
export function repoTagOf(reference: ImageReference): string | undefined {
  // A digest wins over a tag: nobody has checked that the tag still points there.
  if (reference.tag === undefined || reference.digest !== undefined) return undefined;
  return `${reference.registry}/${reference.repository}:${reference.tag}`;
}

/** `registry/repository@digest`, as a record's repoDigests hold it. */
export function repoDigestOf(reference: ImageReference, digest: Digest): string {
  return `${reference.registry}/${reference.repository}@${digest}`;
}
