/**
 * Every file and directory of a daemon, below its `--root` and `--run`. Nobody else builds paths.
 *
 * Several daemons run side by side on one machine: nothing here is shared between two roots.
 * All directories are 0700.
 */
import { join } from "node:path";
import { type ContainerId, type Digest, digestHex, type PodUid, type SandboxId } from "../base/ids.js";

export class Paths {
  readonly root: string;
  readonly run: string;

  /** @param root absolute; data. @param run absolute; sockets, locks and our own tmpfs */
  constructor(root: string, run: string) {
    this.root = root;
    this.run = run;
  }

  /** Boot-class records: valid for one boot of the machine. */
  bootState(noun: "sandboxes" | "containers" | "leases" | "history"): string {
    return join(this.root, "state", "boot", noun);
  }

  /** Durable records: they survive a power cut. */
  durableState(
    noun: "attachments" | "configmaps" | "images" | "layers" | "pods" | "secrets" | "uses" | "volumes",
  ): string {
    return join(this.root, "state", "durable", noun);
  }

  /** The file of one image's or layer's record. @param id hex */
  durableRecord(noun: "images" | "layers", id: string): string {
    return join(this.durableState(noun), `${id}.json`);
  }

  /** Unreadable records are moved here and reported. */
  get quarantine(): string {
    return join(this.root, "quarantine");
  }

  /** Manifests and image configs, by digest. */
  blob(digest: Digest): string {
    return join(this.root, "blobs", "sha256", digestHex(digest));
  }

  /** All unpacked layers. */
  get layers(): string {
    return join(this.root, "layers");
  }

  /** The unpacked tree of one layer, an overlay lower directory. */
  layer(diffId: Digest): string {
    return join(this.layers, digestHex(diffId), "fs");
  }

  /** Half-made things; swept at start. */
  get tmp(): string {
    return join(this.root, "tmp");
  }

  /** Generated hosts, hostname and resolv.conf of a sandbox. */
  sandbox(id: SandboxId): string {
    return join(this.root, "sandboxes", id);
  }

  /** Each holds one directory for each sandbox, container or pod, made and removed with it. */
  get ofPods(): readonly string[] {
    return ["containers", "logs", "sandboxes", "volumes"].map((name) => join(this.root, name));
  }

  get containers(): string {
    return join(this.root, "containers");
  }

  /** Bundle, exit file, upper and work directory of a container. */
  container(id: ContainerId): string {
    return join(this.containers, id);
  }

  /** A pod's own volumes; removed with the pod's UID. */
  podVolumes(uid: PodUid): string {
    return join(this.root, "volumes", uid);
  }

  /** Logs of a pod's containers: `<namespace>_<name>_<uid>/<container>/<restart>.log`, as a kubelet lays them out. */
  podLogs(namespace: string, name: string, uid: PodUid): string {
    return join(this.root, "logs", `${namespace}_${name}_${uid}`);
  }

  /** Where an administrator puts the seccomp profiles that pods name with type Localhost. */
  get seccompProfiles(): string {
    return join(this.root, "seccomp");
  }

  /** Our own tmpfs: secrets, memory-backed volumes and the sockets of monitors. */
  get tmpfs(): string {
    return join(this.run, "tmpfs");
  }

  /** Where the /dev/shm of sandboxes is mounted, on kernels that clone attached mounts only. */
  get shm(): string {
    return join(this.run, "shm");
  }

  sandboxShm(id: SandboxId): string {
    return join(this.shm, id);
  }

  get apiSocket(): string {
    return join(this.run, "api.sock");
  }

  get criSocket(): string {
    return join(this.run, "cri.sock");
  }

  /** Where NRI plugins connect, unless the settings say otherwise. */
  get nriSocket(): string {
    return join(this.run, "nri.sock");
  }

  /** Network namespaces bound to paths, for CNI plugins. */
  get netns(): string {
    return join(this.run, "netns");
  }

  /** On our own tmpfs, where making and removing a socket costs next to nothing. */
  get monitors(): string {
    return join(this.tmpfs, "monitors");
  }

  /** Where a sandbox's monitor listens. May exceed 107 bytes: connect through `/proc/self/fd/N/`. */
  monitorSocket(id: SandboxId): string {
    return join(this.monitors, `${id}.sock`);
  }

  /** Names the file that the last daemon's `--config` named. */
  get lastSettingsFile(): string {
    return join(this.run, "settings-file");
  }

  /** Held with flock for as long as a daemon uses this root. */
  get lock(): string {
    return join(this.root, "lock");
  }
}
