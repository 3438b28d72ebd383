/**
 * What the writable layers of containers occupy. Measuring walks a tree, so it is done by a process
 * of its own, for all containers that are asked for meanwhile at once, and believed for a while.
 */
import { join } from "node:path";
import { nowNs } from "../base/clock.js";
import type { ContainerId } from "../base/ids.js";
import { sumDirectories } from "../image/stored-layer.js";
import type { RuntimeContext } from "./context.js";

const LIFETIME_NS = 10_000_000_000n;

export interface WritableLayerUsage {
  /** When it was measured. */
  readonly atNs: bigint;
  /** Of the file system that the layer is in. */
  readonly path: string;
  /** Allocated, as du(1) counts: a file with several names once. */
  readonly usedBytes: bigint;
  readonly usedInodes: bigint;
}

interface Round {
  readonly ids: Set<ContainerId>;
  readonly done: Promise<void>;
}

class WritableLayers {
  readonly #ctx: RuntimeContext;
  readonly #known = new Map<ContainerId, WritableLayerUsage>();
  /** Not begun yet: takes more containers. */
  #next: Round | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(ctx: RuntimeContext) {
    this.#ctx = ctx;
  }

  async usage(id: ContainerId): Promise<WritableLayerUsage> {
    const known = this.#known.get(id);
    if (known && nowNs() - known.atNs < LIFETIME_NS) return known;
    this.#next ??= this.#round();
    this.#next.ids.add(id);
    await this.#next.done;
    // One that has gone meanwhile occupies nothing.
    return this.#known.get(id) ?? { atNs: nowNs(), path: this.#ctx.paths.root, usedBytes: 0n, usedInodes: 0n };
  }

  #round(): Round {
    const ids = new Set<ContainerId>();
    const done = this.#last.then(() => {
      this.#next = undefined;
      return this.#measure([...ids]);
    });
    this.#last = done.catch(() => undefined);
    return { ids, done };
  }

  async #measure(ids: readonly ContainerId[]): Promise<void> {
    for (const id of this.#known.keys()) if (!this.#ctx.containers.get(id)) this.#known.delete(id);
    const { paths } = this.#ctx;
    const sums = await sumDirectories(ids.map((id) => join(paths.container(id), "upper")));
    const atNs = nowNs();
    for (const [i, id] of ids.entries()) {
      const { bytes, inodes } = sums[i] ?? { bytes: 0, inodes: 0 };
      this.#known.set(id, { atNs, path: paths.root, usedBytes: BigInt(bytes), usedInodes: BigInt(inodes) });
    }
  }
}

const layersOf = new WeakMap<RuntimeContext, WritableLayers>();

/** Of a container's own layer; at most 10 seconds old. */
export function writableLayerUsage(ctx: RuntimeContext, id: ContainerId): Promise<WritableLayerUsage> {
  const layers = layersOf.get(ctx) ?? new WritableLayers(ctx);
  layersOf.set(ctx, layers);
  return layers.usage(id);
}
