/**
 * Identifiers as branded strings, so that one cannot be passed for another.
 */
import { randomBytes } from "node:crypto";

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** 64 lower-case hex digits; names one sandbox for ever. */
export type SandboxId = Branded<"SandboxId">;
/** 64 lower-case hex digits; names one container for ever. */
export type ContainerId = Branded<"ContainerId">;
/** 32 lower-case hex digits; names one exec session. */
export type ExecId = Branded<"ExecId">;
/** `sha256:` and 64 lower-case hex digits. */
export type Digest = Branded<"Digest">;
/** A Kubernetes UID: of the manifest, or a random UUID. */
export type PodUid = Branded<"PodUid">;

const DIGEST = /^sha256:[0-9a-f]{64}$/;
const LONG_ID = /^[0-9a-f]{64}$/;

export function newSandboxId(): SandboxId {
  return randomBytes(32).toString("hex") as SandboxId;
}

export function newContainerId(): ContainerId {
  return randomBytes(32).toString("hex") as ContainerId;
}

export function newExecId(): ExecId {
  return randomBytes(16).toString("hex") as ExecId;
}

export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

/** True for a whole sandbox or container id. A prefix, as crictl shows it, is not one. */
export function isLongId(text: string): boolean {
  return LONG_ID.test(text);
}

/** The first 13 characters, as crictl prints ids: for messages, never for look-ups. */
export function shortId(id: SandboxId | ContainerId | ExecId): string {
  return id.slice(0, 13);
}

/** The hex half of a digest: what file names use. */
export function digestHex(digest: Digest): string {
  return digest.slice("sha256:".length);
}
