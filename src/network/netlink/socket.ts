/**
 * A netlink socket that runs batches one after the other and gives each request its answer.
 */
import { RuntimeError } from "../../base/errors.js";
import { type Fd, netlinkOpen, netlinkTransact, syscallError } from "../../native/index.js";
import {
  batch,
  NLMSG_DONE,
  NLMSG_ERROR,
  type NetlinkAnswer,
  type NetlinkMessage,
  type NetlinkRequest,
  parseAnswer,
  parseMessages,
} from "./message.js";

/** What came back for one request. `errno` 0: done. */
export interface NetlinkResult extends NetlinkAnswer {
  readonly request: NetlinkRequest;
  readonly messages: readonly NetlinkMessage[];
}

export class NetlinkSocket {
  readonly #fd: Fd;
  #sequence = 1;
  #last: Promise<unknown> = Promise.resolve();

  /** @param fd closed by `close`; who only borrows it does not call that */
  constructor(fd: Fd) {
    this.#fd = fd;
  }

  static async open(protocol: "route" | "netfilter", netns?: Fd): Promise<NetlinkSocket> {
    return new NetlinkSocket(await netlinkOpen(protocol, netns));
  }

  /** Sends a batch. The kernel works through all of it also where one request fails, and refuses an empty one (ENODATA). */
  exchange(requests: readonly NetlinkRequest[]): Promise<NetlinkResult[]> {
    if (requests.length === 0) return Promise.resolve([]);
    const done = this.#last.then(
      () => this.#exchange(requests),
      () => this.#exchange(requests),
    );
    this.#last = done;
    return done;
  }

  /** As `exchange`; throws the first failure, with the kernel's explanation. */
  async run(clause: string, requests: readonly NetlinkRequest[]): Promise<NetlinkResult[]> {
    const results = await this.exchange(requests);
    for (const result of results) {
      if (result.errno !== 0) throw netlinkError(clause, result);
    }
    return results;
  }

  close(): void {
    this.#fd.close();
  }

  async #exchange(requests: readonly NetlinkRequest[]): Promise<NetlinkResult[]> {
    const first = this.#sequence;
    this.#sequence += requests.length;
    const expected = requests.filter(({ isAnswered }) => isAnswered).length;
    const replies = parseMessages(await netlinkTransact(this.#fd, batch(requests, first), expected));
    return requests.map((request, index) => toResult(request, first + index, replies));
  }
}

/** What a batch's replies say of one of its requests. */
export function toResult(request: NetlinkRequest, sequence: number, replies: readonly NetlinkMessage[]): NetlinkResult {
  const own = replies.filter((reply) => reply.sequence === sequence);
  const end = own.find(({ type }) => type === NLMSG_ERROR || type === NLMSG_DONE);
  const messages = own.filter((reply) => reply !== end);
  if (end) return { request, messages, ...parseAnswer(end) };
  if (!request.isAnswered) return { request, messages, errno: 0, detail: undefined };
  // A refused nfnetlink batch answers only the requests up to the failure.
  return { request, messages, errno: ECANCELED, detail: "not reached" };
}

export const ECANCELED = 125;

export function netlinkError(clause: string, result: NetlinkResult): RuntimeError {
  const err = syscallError(clause, result.request.name, result.errno);
  if (result.detail === undefined) return err;
  return new RuntimeError(`${err.message} (${result.detail})`, {
    kind: err.kind,
    code: err.code,
    syscall: err.syscall,
  });
}
