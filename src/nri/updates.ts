/**
 * What plugins want changed of containers other than the one that an event is about.
 */
import { RuntimeError } from "../base/errors.js";
import type { ContainerResources } from "../spec/container-config.js";
import type { ContainerUpdate } from "./generated/nri/v1alpha1/nri.js";
import type { Owners } from "./owners.js";
import { adjustResources } from "./resources.js";

export interface WantedUpdate {
  readonly containerId: string;
  /** What is `undefined` stays as it is. */
  readonly changes: ContainerResources;
  /** True where it is only a wish. */
  readonly ignoreFailure: boolean;
}

export class Updates {
  readonly #owners: Owners;
  readonly #creating: string | undefined;
  readonly #wanted = new Map<string, WantedUpdate>();

  /** @param creating the container that is being made, which is adjusted and not updated */
  constructor(owners: Owners, creating?: string) {
    this.#owners = owners;
    this.#creating = creating;
  }

  /**
   * Adds what one plugin wants. A wish that conflicts with what another plugin has set is dropped.
   * @throws RuntimeError `aborted` NRI_CONFLICT, `failed-precondition` NRI_ADJUSTMENT_INVALID
   */
  collect(plugin: string, updates: readonly ContainerUpdate[]): void {
    for (const { containerId, linux, ignoreFailure } of updates) {
      if (containerId === this.#creating) {
        throw new RuntimeError(`NRI plugin "${plugin}" updates the container that it is to adjust`, {
          kind: "failed-precondition",
          code: "NRI_ADJUSTMENT_INVALID",
        });
      }
      const before = this.#wanted.get(containerId);
      try {
        const claims = { owners: this.#owners, containerId, plugin };
        const { resources: changes } = adjustResources(before?.changes ?? {}, linux?.resources, claims);
        const isWish = ignoreFailure && (before?.ignoreFailure ?? true);
        this.#wanted.set(containerId, { containerId, changes, ignoreFailure: isWish });
      } catch (err) {
        if (!ignoreFailure) throw err;
      }
    }
  }

  /** Those of one container, which are no longer among the others. */
  takeOf(containerId: string): ContainerResources {
    const own = this.#wanted.get(containerId);
    this.#wanted.delete(containerId);
    return own?.changes ?? {};
  }

  get all(): readonly WantedUpdate[] {
    return [...this.#wanted.values()];
  }
}
