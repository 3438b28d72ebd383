/**
 * Deletes retired links in groups, each as soon as the one before is gone: deleting a hundred links
 * of one group costs the kernel about what one costs. Who waits is told when the kernel has taken
 * the links off every list, not when it has freed their memory, which is 10 to 45 ms later.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { failpoint } from "../base/failpoints.js";
import { deleteLinks } from "../native/index.js";
import { batch, parseMessages } from "./netlink/message.js";
import { deleteLinkGroup } from "./netlink/rtnetlink.js";
import { netlinkError, toResult } from "./netlink/socket.js";

const ENODEV = 19;
const ATTEMPTS = 5;
const RETRY_MS = 200;
const SEQUENCE = 1;

export class LinkReaper {
  readonly #group: number;
  /** Links that the next deletion waits for. */
  #names: string[] = [];
  /** Whether it waits for links too whose names nobody knows. */
  #isWhole = false;
  /** The deletion that links retired from now on will be part of. */
  #next: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(group: number) {
    this.#group = group;
  }

  /**
   * Settles when the link, which is in the group now, is gone; it has no address, no route and no
   * neighbour any more, and its name is free.
   *
   * @param link `undefined`: every link that is in the group now
   */
  reap(link: string | undefined): Promise<void> {
    if (link === undefined) this.#isWhole = true;
    else this.#names.push(link);
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        const names = this.#isWhole ? [] : this.#names;
        this.#names = [];
        this.#isWhole = false;
        this.#next = undefined;
        this.#running = this.#deleteGroup(names);
        return this.#running;
      });
    return this.#next;
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await (this.#next ?? this.#running).catch(() => undefined);
  }

  /** @param names that it waits for; none: for the kernel's answer */
  async #deleteGroup(names: readonly string[]): Promise<void> {
    failpoint("delete links");
    const request = deleteLinkGroup(this.#group);
    for (let attempt = 1; ; attempt++) {
      const answer = await deleteLinks(batch([request], SEQUENCE), names);
      if (answer.length === 0) return;
      const result = toResult(request, SEQUENCE, parseMessages(answer));
      // ENODEV: none is left, because their namespaces took them along.
      if (result.errno === 0 || result.errno === ENODEV) return;
      if (attempt === ATTEMPTS) throw netlinkError("delete retired links", result);
      await sleep(RETRY_MS);
    }
  }
}
