/**
 * A pod's link as requests that are sent while its namespaces are made (native/namespaces.ts, `NewLink`), and
 * what the kernel said to each. Pure.
 */
import type { LinkReplies, NewLink } from "../native/index.js";
import type { SandboxNetwork } from "../state/sandbox.js";
import { batch, type NetlinkRequest, parseMessages } from "./netlink/message.js";
import type { PlacedRequest } from "./netlink/rtnetlink.js";
import { type NetlinkResult, toResult } from "./netlink/socket.js";

const FIRST_SEQUENCE = 1;

/** What a sandbox will have, and the link for `createSandboxNamespaces` that it gets it by. */
export interface Reserved {
  readonly network: SandboxNetwork;
  readonly link: PlannedLink;
}

export class PlannedLink implements NewLink {
  readonly host: NewLink["host"];
  readonly pod: NewLink["pod"];
  readonly netnsAt: number;
  readonly podName: string;
  readonly indexAt: readonly number[];
  /** That it was planned for: another by the time it is made, where somebody has deleted that one. */
  readonly bridgeIndex: number;
  readonly #requests: { readonly host: readonly NetlinkRequest[]; readonly pod: readonly NetlinkRequest[] };

  /**
   * @param pair made by `createVeth`; `port` is what follows it in the host
   * @param pod in the pod; of those with a place the index of the pod's end is written there
   */
  constructor(
    bridgeIndex: number,
    podName: string,
    host: readonly [pair: PlacedRequest, ...port: NetlinkRequest[]],
    pod: readonly (NetlinkRequest | PlacedRequest)[],
  ) {
    this.bridgeIndex = bridgeIndex;
    this.podName = podName;
    this.#requests = { host, pod };
    this.host = { bytes: batch(host, FIRST_SEQUENCE), expectedEnds: host.length };
    this.pod = { bytes: batch(pod, FIRST_SEQUENCE), expectedEnds: pod.length };
    this.netnsAt = host[0].at;
    let from = 0;
    const places: number[] = [];
    for (const request of pod) {
      if ("at" in request) places.push(from + request.at);
      from += request.bytes.length;
    }
    this.indexAt = places;
  }

  /** The pod's are none where one of the host's was refused. */
  results(replies: LinkReplies): { readonly host: readonly NetlinkResult[]; readonly pod: readonly NetlinkResult[] } {
    const host = resultsOf(this.#requests.host, replies.host);
    return { host, pod: replies.pod.length === 0 ? [] : resultsOf(this.#requests.pod, replies.pod) };
  }
}

function resultsOf(requests: readonly NetlinkRequest[], bytes: Buffer): NetlinkResult[] {
  const replies = parseMessages(bytes);
  return requests.map((request, index) => toResult(request, FIRST_SEQUENCE + index, replies));
}
