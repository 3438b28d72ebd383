/**
 * Locks, directory descriptors and questions to the kernel that Node has no call for.
 */
import { hasErrno, RuntimeError } from "../base/errors.js";
import { addon, call, callAsync, errnoName } from "./addon.js";
import { Fd } from "./fd.js";

/**
 * Replaces a file as a whole: temporary file in the same directory, then rename. On failure the
 * old file stays and no temporary one does.
 *
 * @param options.mode of the new file, `0o600`
 * @param options.isDurable fsync of the file before the rename, and of the directory after it
 */
export function writeAtomically(
  path: string,
  bytes: Buffer,
  options: { readonly mode: number; readonly isDurable: boolean },
): Promise<void> {
  return callAsync(`write "${path}"`, (native) => native.writeAtomically(path, bytes, options.mode, options.isDurable));
}

/**
 * Tells the file system that what is below the subdirectories of a directory belongs together only
 * subdirectory by subdirectory (chattr(1), "T"). ext4 spreads them over the disk then; else all their
 * inodes come from one place, where each new one is looked for among those that were deleted lately.
 * Nothing happens where the file system knows no such thing.
 */
export function spreadSubdirectories(path: string): void {
  call(`mark "${path}"`, (native) => native.spreadSubdirectories(path));
}

/**
 * Locks a file exclusively (flock(2)) for as long as the descriptor is open; makes it where
 * missing, mode 0600.
 *
 * @throws RuntimeError `failed-precondition` LOCKED: another process holds it
 */
export async function lockFile(path: string): Promise<Fd> {
  try {
    return new Fd(await callAsync(`lock "${path}"`, (native) => native.lockFile(path)), `lock "${path}"`);
  } catch (cause) {
    if (!hasErrno(cause, "EAGAIN")) throw cause;
    throw new RuntimeError(`lock "${path}": another process holds it`, {
      kind: "failed-precondition",
      code: "LOCKED",
      syscall: { name: "flock", errno: "EWOULDBLOCK" },
      cause,
    });
  }
}

/**
 * A short extended attribute of a file, not followed where it is a link; `undefined` where it
 * has none of that name (lgetxattr(2)).
 *
 * @throws RuntimeError by errno; ERANGE: the value has more than 64 bytes
 */
export function readXattr(path: string, name: string): Promise<Buffer | undefined> {
  return callAsync(`read attribute "${name}" of "${path}"`, (native) => native.readXattr(path, name));
}

/** A directory by descriptor: `/proc/self/fd/<n>/name` shortens a long path to it. */
export function openDirectory(path: string): Fd {
  return new Fd(
    call(`open "${path}"`, (native) => native.openDirectory(path)),
    path,
  );
}

/** What the kernel can do, found by trying: `undefined` works, else the errno name. */
export interface KernelProbe {
  readonly openat2: string | undefined;
  readonly pidfd: string | undefined;
  readonly closeRange: string | undefined;
  readonly overlay: string | undefined;
  readonly tmpfs: string | undefined;
  readonly mqueue: string | undefined;
  /** Needed for a shared /dev/shm that no mount table holds (Linux 6.15). */
  readonly cloneDetachedMount: string | undefined;
  readonly mountSetattr: string | undefined;
}

export async function probeKernel(): Promise<KernelProbe> {
  const lines = await addon().probeKernel();
  const errnos = new Map(lines.split("\n").map((line) => line.split("=", 2) as [string, string]));
  const of = (name: keyof KernelProbe): string | undefined => {
    const errno = Number(errnos.get(name) ?? 0);
    return errno === 0 ? undefined : errnoName(errno);
  };
  return {
    openat2: of("openat2"),
    pidfd: of("pidfd"),
    closeRange: of("closeRange"),
    overlay: of("overlay"),
    tmpfs: of("tmpfs"),
    mqueue: of("mqueue"),
    cloneDetachedMount: of("cloneDetachedMount"),
    mountSetattr: of("mountSetattr"),
  };
}
