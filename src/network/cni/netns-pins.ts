/**
 * Network namespaces bound to paths, because CNI plugins are given a path. Only sandboxes whose
 * network CNI does have one: pins slow every later start, and leak.
 *
 * The directory is a shared mount, as iproute2's `/run/netns` is: whoever has a copy of the mount
 * table sees a pin come and go, so a copy cannot keep a namespace alive that is gone here.
 */
import { mkdir, open, readdir, rm, rmdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import { hasErrno } from "../../base/errors.js";
import { bindMount, type Fd, isMountPoint, makeShared, unmount } from "../../native/index.js";

/** statfs(2), NSFS_MAGIC. */
const NSFS = 0x6e736673;
const PREFIX = "minke-";

export class NetnsPins {
  readonly #dir: string;
  #ready: Promise<void> | undefined;

  /** @param dir absolute, without symbolic links */
  constructor(dir: string) {
    this.#dir = dir;
  }

  path(id: string): string {
    return join(this.#dir, `${PREFIX}${id}`);
  }

  /** Of a namespace that is pinned already too. */
  async pin(id: string, netns: Fd): Promise<string> {
    this.#ready ??= this.#share().catch((err: unknown) => {
      this.#ready = undefined;
      throw err;
    });
    await this.#ready;
    const path = this.path(id);
    await this.unpin(id);
    await (await open(path, "w", 0o444)).close();
    await bindMount(`/proc/self/fd/${netns.number}`, path);
    return path;
  }

  /** Empty where no namespace is bound there: after a reboot the file may be, and the namespace is not. */
  async boundPath(id: string): Promise<string> {
    try {
      return (await statfs(this.path(id))).type === NSFS ? this.path(id) : "";
    } catch (err) {
      if (hasErrno(err, "ENOENT")) return "";
      throw err;
    }
  }

  /** What is not pinned stays so. */
  async unpin(id: string): Promise<void> {
    // Bound more than once where a daemon died in between.
    while ((await this.boundPath(id)) !== "") await unmount(this.path(id), { detach: true });
    await rm(this.path(id), { force: true });
  }

  /** Ids of all pins. */
  async list(): Promise<string[]> {
    const names = await readdir(this.#dir).catch(() => []);
    return names.filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));
  }

  /** Takes the directory back where it holds nothing of anybody. */
  async close(): Promise<void> {
    const names = await readdir(this.#dir).catch(() => undefined);
    if (names === undefined || names.length > 0) return;
    if (await isMountPoint(this.#dir)) await unmount(this.#dir, { detach: true });
    await rmdir(this.#dir);
  }

  /** A mount of its own, so that it can be shared whatever it lies in (as ip-netns(8) does). */
  async #share(): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o755 });
    if (!(await isMountPoint(this.#dir))) await bindMount(this.#dir, this.#dir);
    await makeShared(this.#dir);
  }
}
