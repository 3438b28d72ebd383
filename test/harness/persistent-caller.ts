/**
 * CRI as a kubelet calls it: where a daemon goes away under a request, the same is asked of the next one.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type ServiceError, status } from "@grpc/grpc-js";
import { expect } from "vitest";
import { ContainerState } from "../../src/cri/generated/runtime/v1/api.js";
import type { ContainerFields, CriClient, SandboxFields } from "./cri.js";

/** Of one request, over any number of daemons. */
const GIVE_UP_MS = 120_000;

export class PersistentCaller {
  readonly cri: CriClient;

  constructor(cri: CriClient) {
    this.cri = cri;
  }

  /** Asks until a daemon answers; what it answers is final. */
  async ask<T>(ask: () => Promise<T>): Promise<T> {
    for (const giveUpAt = Date.now() + GIVE_UP_MS; ; await sleep(20)) {
      try {
        return await ask();
      } catch (err) {
        const { code } = err as ServiceError;
        const isDaemonGone = code === status.UNAVAILABLE || code === status.CANCELLED;
        if (!isDaemonGone || Date.now() > giveUpAt) throw err;
      }
    }
  }

  /** @param name of the pod, its uid and its one label */
  async runSandbox(name: string, fields: SandboxFields = {}): Promise<string> {
    const labels = { name };
    const config = { metadata: { name, uid: name, namespace: "test", attempt: 0 }, labels, ...fields };
    return this.#made(
      () => this.cri.runSandbox(config),
      async () => {
        const filter = { id: "", state: undefined, labelSelector: labels };
        return (await this.cri.call("listPodSandbox", { filter })).items[0]?.id;
      },
    );
  }

  /** @param name of the container, and its one label */
  async createContainer(podSandboxId: string, name: string, fields: ContainerFields = {}): Promise<string> {
    const labels = { name };
    return this.#made(
      () => this.cri.createContainer(podSandboxId, { metadata: { name, attempt: 0 }, labels, ...fields }),
      async () => {
        const filter = { id: "", state: undefined, podSandboxId, labelSelector: labels };
        return (await this.cri.call("listContainers", { filter })).containers[0]?.id;
      },
    );
  }

  /** A start whose answer was lost may have been done: then the container runs, or has ended. */
  async start(containerId: string): Promise<void> {
    await this.ask(async () => {
      try {
        await this.cri.call("startContainer", { containerId });
      } catch (err) {
        if ((err as ServiceError).code !== status.FAILED_PRECONDITION) throw err;
        const { state } = await this.cri.status(containerId);
        expect([ContainerState.CONTAINER_RUNNING, ContainerState.CONTAINER_EXITED]).toContain(state);
      }
    });
  }

  async removeSandbox(podSandboxId: string): Promise<void> {
    await this.ask(() => this.cri.call("stopPodSandbox", { podSandboxId }));
    await this.ask(() => this.cri.call("removePodSandbox", { podSandboxId }));
  }

  /** The id of what the call makes; where its answer was lost with a daemon, of what is there by that name. */
  #made(make: () => Promise<string>, find: () => Promise<string | undefined>): Promise<string> {
    return this.ask(async () => {
      try {
        return await make();
      } catch (err) {
        if ((err as ServiceError).code !== status.ALREADY_EXISTS) throw err;
        const id = await find();
        if (id === undefined) throw new Error("exists already, and is in no list", { cause: err });
        return id;
      }
    });
  }
}
