/**
 * Which host numbers of the pod subnets are in use: a bitmap, the same number for IPv4 and IPv6.
 *
 * An address is not given out again right after its release, because peers may still have the
 * old pod in their caches: the search goes on from the last one and comes back at the end.
 */
import { RuntimeError } from "../base/errors.js";
import { formatSubnet, hostCount, type Subnet } from "./address.js";

/** A subnet larger than this is used up to here: 1 MiB of bitmap. */
const MAX_OFFSETS = 1n << 23n;
/** 0 is the network itself, 1 the gateway. */
const FIRST_OFFSET = 2;

export class AddressPool {
  readonly #subnets: readonly Subnet[];
  readonly #used: Uint8Array;
  /** One past the last usable offset. */
  readonly #end: number;
  #next = FIRST_OFFSET;

  constructor(subnets: readonly Subnet[]) {
    this.#subnets = subnets;
    this.#end = Math.min(...subnets.map(usableEnd));
    this.#used = new Uint8Array(Math.ceil(this.#end / 8));
  }

  /** How many pods can have an address. */
  get capacity(): number {
    return Math.max(0, this.#end - FIRST_OFFSET);
  }

  /** @throws RuntimeError `resource-exhausted` NO_ADDRESSES, naming the subnets */
  take(): number {
    for (let tried = 0; tried < this.capacity; tried++) {
      const offset = this.#next;
      this.#next = offset + 1 < this.#end ? offset + 1 : FIRST_OFFSET;
      if (!this.isUsed(offset)) {
        this.mark(offset);
        return offset;
      }
    }
    const names = this.#subnets.map((subnet) => `"${formatSubnet(subnet)}"`).join(" and ");
    throw new RuntimeError(
      `lease an address: all ${this.capacity} of ${names} are in use (settings: network.subnet-ipv4, network.subnet-ipv6)`,
      {
        kind: "resource-exhausted",
        code: "NO_ADDRESSES",
      },
    );
  }

  /** For leases read from state. The search goes on behind the highest of them. */
  mark(offset: number): void {
    const byte = offset >> 3;
    this.#used[byte] = (this.#used[byte] ?? 0) | (1 << (offset & 7));
    if (offset >= this.#next) this.#next = offset + 1 < this.#end ? offset + 1 : FIRST_OFFSET;
  }

  isUsed(offset: number): boolean {
    return ((this.#used[offset >> 3] ?? 0) & (1 << (offset & 7))) !== 0;
  }

  release(offset: number): void {
    const byte = offset >> 3;
    this.#used[byte] = (this.#used[byte] ?? 0) & ~(1 << (offset & 7));
  }
}

/** The last address of an IPv4 subnet is its broadcast address. */
function usableEnd(subnet: Subnet): number {
  const count = hostCount(subnet);
  const usable = subnet.family === 4 ? count - 1n : count;
  return Number(usable < MAX_OFFSETS ? usable : MAX_OFFSETS);
}
