/**
 * What `features` of a runtime prints: OCI runtime-spec 1.3, features.md and
 * features-linux.md. Types only. `undefined` means unknown, which is not the same as none.
 */

export interface Features {
  ociVersionMin: string;
  ociVersionMax: string;
  /** Names of the hooks that are run. */
  hooks?: string[] | undefined;
  mountOptions?: string[] | undefined;
  linux?: LinuxFeatures | undefined;
  annotations?: Record<string, string> | undefined;
  /** Annotations of a spec that may change what is safe. */
  potentiallyUnsafeConfigAnnotations?: string[] | undefined;
}

export interface LinuxFeatures {
  /** Types that can be made and joined. */
  namespaces?: string[] | undefined;
  capabilities?: string[] | undefined;
  cgroup?:
    | {
        v1?: boolean | undefined;
        v2?: boolean | undefined;
        systemd?: boolean | undefined;
        systemdUser?: boolean | undefined;
        rdma?: boolean | undefined;
      }
    | undefined;
  seccomp?:
    | {
        enabled?: boolean | undefined;
        actions?: string[] | undefined;
        operators?: string[] | undefined;
        archs?: string[] | undefined;
        knownFlags?: string[] | undefined;
        supportedFlags?: string[] | undefined;
      }
    | undefined;
  apparmor?: { enabled?: boolean | undefined } | undefined;
  selinux?: { enabled?: boolean | undefined } | undefined;
  intelRdt?:
    | { enabled?: boolean | undefined; schemata?: boolean | undefined; monitoring?: boolean | undefined }
    | undefined;
  memoryPolicy?: { modes?: string[] | undefined; flags?: string[] | undefined } | undefined;
  mountExtensions?: { idmap?: { enabled?: boolean | undefined } | undefined } | undefined;
  netDevices?: { enabled?: boolean | undefined } | undefined;
}
