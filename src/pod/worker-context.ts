/**
 * What the workers of one engine share.
 */
import type { Logger } from "../base/log.js";
import type { Runtime } from "../runtime/runtime.js";
import type { Paths } from "../settings/paths.js";
import type { SandboxDns } from "../state/sandbox.js";
import type { RecordStore } from "../state/store.js";
import type { Volumes } from "../volume/volumes.js";
import type { BackoffLimits } from "./backoff.js";
import type { ConfigSource } from "./config-objects.js";
import type { ContainerStarter } from "./container-starter.js";
import type { PodEvents } from "./events.js";
import type { PodHistory } from "./history.js";
import type { PodWorker } from "./pod-worker.js";
import type { PodRecord } from "./record.js";

export interface WorkerContext {
  readonly runtime: Runtime;
  readonly starter: ContainerStarter;
  readonly volumes: Volumes;
  readonly configs: ConfigSource;
  readonly store: RecordStore<PodRecord>;
  readonly paths: Paths;
  readonly limits: BackoffLimits;
  readonly events: PodEvents;
  readonly history: PodHistory;
  readonly log: Logger;
  readonly hostDns: () => SandboxDns;
  readonly hostIps: () => readonly string[];
  /** The pod looks different from now on. */
  readonly changed: (worker: PodWorker) => void;
  /** The pod is gone, and so is all that it had. */
  readonly gone: (worker: PodWorker) => void;
}
