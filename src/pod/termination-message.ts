/**
 * The file in which a container says why it ends (Kubernetes, "Determine the Reason for Pod Failure").
 *
 * One file an attempt, in a directory of the pod's volumes that no volume can be named like, so it
 * goes with them. A container may write what it likes; 4096 bytes are read.
 */
import { constants } from "node:fs";
import { chmod, mkdir, open, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../base/errors.js";
import type { PodUid } from "../base/ids.js";
import type { Paths } from "../settings/paths.js";
import type { ContainerMount } from "../state/container.js";
import { readLog } from "./logs.js";
import type { Container } from "./manifest/defaults.js";

const FOLDER = "..messages";
const LIMIT_BYTES = 4096;
/** Of the log, where it stands in for the message. */
const LOG_LINES = 80;
const LOG_LIMIT_BYTES = 2048;

const messageFile = (paths: Paths, uid: PodUid, name: string, attempt: number): string =>
  join(paths.podVolumes(uid), FOLDER, `${name}.${attempt}`);

/** Makes the file of an attempt, and forgets the one before the last. */
export async function makeMessageFile(
  paths: Paths,
  uid: PodUid,
  container: Container,
  attempt: number,
): Promise<ContainerMount> {
  const file = messageFile(paths, uid, container.name, attempt);
  await mkdir(join(paths.podVolumes(uid), FOLDER), { recursive: true, mode: 0o700 });
  await writeFile(file, "");
  // Whoever the container runs as may write; nobody else gets through the directories above.
  await chmod(file, 0o666);
  if (attempt >= 2) await rm(messageFile(paths, uid, container.name, attempt - 2), { force: true });
  return {
    containerPath: container.terminationMessagePath,
    hostPath: file,
    readonly: false,
    recursiveReadonly: false,
    propagation: "private",
    mapsIds: true,
  };
}

export interface EndedContainer {
  readonly container: Container;
  readonly attempt: number;
  readonly exitCode: number;
  /** Its log. */
  readonly logPath: string;
}

/** What a container has left to say; empty: nothing. */
export async function readMessage(paths: Paths, uid: PodUid, ended: EndedContainer): Promise<string> {
  const { container, attempt, exitCode, logPath } = ended;
  const message = await readStart(messageFile(paths, uid, container.name, attempt));
  if (message !== "" || exitCode === 0 || container.terminationMessagePolicy === "File") return message;
  const chunks: Buffer[] = [];
  try {
    const options = {
      follow: false,
      tailLines: LOG_LINES,
      sinceMs: undefined,
      timestamps: false,
      limitBytes: undefined,
      signal: new AbortController().signal,
      hasEnded: () => true,
    };
    for await (const chunk of readLog(logPath, options)) chunks.push(chunk);
  } catch (err) {
    // A container that wrote nothing has no log.
    if (!(err instanceof Error)) throw err;
  }
  return Buffer.concat(chunks).subarray(-LOG_LIMIT_BYTES).toString("utf8");
}

async function readStart(file: string): Promise<string> {
  try {
    const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(LIMIT_BYTES), 0, LIMIT_BYTES, 0);
      return buffer.toString("utf8", 0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return "";
    throw err;
  }
}
