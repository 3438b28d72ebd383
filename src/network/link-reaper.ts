/**
 * Deletes retired links in groups. Deleting one link takes the kernel 40 ms and deleting a
 * hundred of one group takes 41 (synchronize_net), so whatever is retired while a deletion
 * runs waits for the next one. Has a socket of its own: set-up never queues behind it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../base/errors.js";
import { failpoint } from "../base/failpoints.js";
import { deleteLinkGroup } from "./netlink/rtnetlink.js";
import { netlinkError, NetlinkSocket } from "./netlink/socket.js";

const ENODEV = 19;
const ATTEMPTS = 5;
const RETRY_MS = 200;

export class LinkReaper {
  readonly #socket: NetlinkSocket;
  readonly #group: number;
  /** The deletion that links retired from now on will be part of. */
  #next: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();

  private constructor(socket: NetlinkSocket, group: number) {
    this.#socket = socket;
    this.#group = group;
  }

  static async open(group: number): Promise<LinkReaper> {
    return new LinkReaper(await NetlinkSocket.open("route"), group);
  }

  /** Settles when every link that is in the group now is gone from the kernel. */
  reap(): Promise<void> {
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        this.#running = this.#deleteGroup();
        return this.#running;
      });
    return this.#next;
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await (this.#next ?? this.#running).catch(() => undefined);
    this.#socket.close();
  }

  async #deleteGroup(): Promise<void> {
    failpoint("delete links");
    for (let attempt = 1; ; attempt++) {
      const [result] = await this.#socket.exchange([deleteLinkGroup(this.#group)]);
      if (!result) throw new RuntimeError("delete retired links: no answer", { kind: "internal", code: "INTERNAL" });
      // ENODEV: none is left, because their namespaces took them along.
      if (result.errno === 0 || result.errno === ENODEV) return;
      if (attempt === ATTEMPTS) throw netlinkError("delete retired links", result);
      await sleep(RETRY_MS);
    }
  }
}
