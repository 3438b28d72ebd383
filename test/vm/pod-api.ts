/** Pods over the daemon's API by curl, which takes a tenth of a second where the minke command takes three. */
import { setTimeout as sleep } from "node:timers/promises";
import { LOG, SLOW_MS } from "./daemon.js";
import type { Vm } from "./machine/boot.js";
import { quoted } from "./quoted.js";

interface ContainerStatus {
  readonly name: string;
  readonly containerID?: string;
  readonly restartCount: number;
  readonly state: {
    readonly running?: object;
    readonly terminated?: { readonly exitCode: number; readonly reason: string };
  };
}

export interface Pod {
  readonly status: {
    readonly phase: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

export type PodApi = ReturnType<typeof podApi>;

export function podApi(vm: () => Vm) {
  /** @param path below `/api/v1/namespaces/default/` */
  async function ask(method: string, path: string, body?: object): Promise<{ status: number; text: string }> {
    const data = body ? `-H 'Content-Type: application/json' --data ${quoted(JSON.stringify(body))}` : "";
    const url = quoted(`http://localhost/api/v1/namespaces/default/${path}`);
    const curl = `curl -s -X ${method} --unix-socket /run/minke/api.sock -w '\\n%{http_code}' ${data} ${url}`;
    const lines = (await vm().output(curl, { timeoutMs: SLOW_MS })).split("\n");
    return { status: Number(lines.pop()), text: lines.join("\n") };
  }

  /** The first answer that is there; asked every quarter of a second. */
  async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
    const deadline = performance.now() + SLOW_MS;
    while (performance.now() < deadline) {
      const answer = await look();
      if (answer !== undefined) return answer;
      await sleep(250);
    }
    throw new Error(`not in ${SLOW_MS / 1000} s: ${what}\n${await vm().output(`tail -30 ${LOG}`)}`);
  }

  async function create(manifest: object): Promise<void> {
    const { status, text } = await ask("POST", "pods", manifest);
    if (status !== 201) throw new Error(`create pod: ${status} ${text}`);
  }

  async function pod(name: string): Promise<Pod> {
    const { status, text } = await ask("GET", `pods/${name}`);
    if (status !== 200) throw new Error(`get pod ${name}: ${status} ${text}`);
    return JSON.parse(text) as Pod;
  }

  /** Deletes it and waits until it is gone. */
  async function remove(name: string): Promise<void> {
    await ask("DELETE", `pods/${name}`);
    await until(`pod ${name} is gone`, async () => (await ask("GET", `pods/${name}`)).status === 404 || undefined);
  }

  /** Id of its first container, once that runs. */
  function running(name: string): Promise<string> {
    return until(`pod ${name} runs`, async () => {
      const status = (await pod(name)).status.containerStatuses?.[0];
      return status?.state.running && status.containerID?.replace(/^.*:\/\//, "");
    });
  }

  /** Directory of the cgroup of its only container, once that runs. */
  async function cgroup(name: string): Promise<string> {
    return (await vm().output(`find /sys/fs/cgroup/minke/pods -type d -name ${quoted(await running(name))}`)).trim();
  }

  /** How its first container ended, once it has. */
  const ended = (name: string) =>
    until(`pod ${name} has ended`, async () => (await pod(name)).status.containerStatuses?.[0]?.state.terminated);

  return { ask, until, create, pod, remove, running, cgroup, ended };
}

/** A pod of one busybox container named "main". */
export function busyboxPod(name: string, script: string, fields: { container?: object; spec?: object } = {}): object {
  const command = ["sh", "-c", script];
  const container = { name: "main", image: "minke.test/busybox:1", command, ...fields.container };
  const spec = { restartPolicy: "Never", terminationGracePeriodSeconds: 0, containers: [container], ...fields.spec };
  return { apiVersion: "v1", kind: "Pod", metadata: { name }, spec };
}
