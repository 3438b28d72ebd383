/**
 * The sections of `config.json` for platforms that minke does not run: OCI runtime-spec 1.3,
 * config-solaris.md, config-windows.md, config-vm.md, config-zos.md, config-freebsd.md.
 *
 * Types only, so that any bundle can be read and written without loss.
 */

export interface Solaris {
  /** FMRI of the milestone that must be online before the process starts. */
  milestone?: string | undefined;
  limitpriv?: string | undefined;
  maxShmMemory?: string | undefined;
  anet?: SolarisAnet[] | undefined;
  cappedCPU?: { ncpus?: string | undefined } | undefined;
  cappedMemory?: { physical?: string | undefined; swap?: string | undefined } | undefined;
}

export interface SolarisAnet {
  linkname?: string | undefined;
  lowerLink?: string | undefined;
  allowedAddress?: string | undefined;
  configureAllowedAddress?: string | undefined;
  defrouter?: string | undefined;
  linkProtection?: string | undefined;
  macAddress?: string | undefined;
}

export interface Windows {
  /** Top to base; at least one. */
  layerFolders: string[];
  devices?: { id: string; idType: string }[] | undefined;
  resources?: WindowsResources | undefined;
  /** Absolute path of a credential spec, or its content. */
  credentialSpec?: string | Record<string, unknown> | undefined;
  servicing?: boolean | undefined;
  ignoreFlushesDuringBoot?: boolean | undefined;
  hyperv?: { utilityVMPath?: string | undefined } | undefined;
  network?: WindowsNetwork | undefined;
}

export interface WindowsResources {
  /** `limit` in bytes. */
  memory?: { limit?: number | undefined } | undefined;
  cpu?:
    | {
        count?: number | undefined;
        shares?: number | undefined;
        /** Hundredths of a percent. */
        maximum?: number | undefined;
        affinity?: { mask?: number | undefined; group?: number | undefined }[] | undefined;
      }
    | undefined;
  /** Operations and bytes per second, and bytes of the sandbox. */
  storage?: { iops?: number | undefined; bps?: number | undefined; sandboxSize?: number | undefined } | undefined;
}

export interface WindowsNetwork {
  endpointList?: string[] | undefined;
  allowUnqualifiedDNSQuery?: boolean | undefined;
  DNSSearchList?: string[] | undefined;
  networkSharedContainerName?: string | undefined;
  networkNamespace?: string | undefined;
}

export interface Vm {
  hypervisor?: { path: string; parameters?: string[] | undefined } | undefined;
  kernel: { path: string; parameters?: string[] | undefined; initrd?: string | undefined };
  image?: { path: string; format: "raw" | "qcow2" | "vdi" | "vmdk" | "vhd" } | undefined;
  hwConfig?:
    | {
        deviceTree?: string | undefined;
        vcpus?: number | undefined;
        /** Bytes. */
        memory?: number | undefined;
        dtdevs?: string[] | undefined;
        iomems?: { firstGFN?: number | undefined; firstMFN: number; nrMFNs: number }[] | undefined;
        irqs?: number[] | undefined;
      }
    | undefined;
}

export interface Zos {
  namespaces?: { type: "pid" | "mount" | "ipc" | "uts"; path?: string | undefined }[] | undefined;
}

export interface FreeBsd {
  devices?: { path: string; mode?: number | undefined }[] | undefined;
  jail?: FreeBsdJail | undefined;
}

/** How a jail shares a subsystem with its parent: jail(8). */
export type FreeBsdSharing = "new" | "inherit" | "disable";

export interface FreeBsdJail {
  parent?: string | undefined;
  host?: "new" | "inherit" | undefined;
  ip4?: FreeBsdSharing | undefined;
  ip4Addr?: string[] | undefined;
  ip6?: FreeBsdSharing | undefined;
  ip6Addr?: string[] | undefined;
  vnet?: "new" | "inherit" | undefined;
  vnetInterfaces?: string[] | undefined;
  interface?: string | undefined;
  enforceStatfs?: number | undefined;
  sysvmsg?: FreeBsdSharing | undefined;
  sysvsem?: FreeBsdSharing | undefined;
  sysvshm?: FreeBsdSharing | undefined;
  allow?:
    | {
        setHostname?: boolean | undefined;
        rawSockets?: boolean | undefined;
        chflags?: boolean | undefined;
        mount?: string[] | undefined;
        quotas?: boolean | undefined;
        socketAf?: boolean | undefined;
        mlock?: boolean | undefined;
        reservedPorts?: boolean | undefined;
        suser?: boolean | undefined;
      }
    | undefined;
}
