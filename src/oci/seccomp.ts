/**
 * The `linux.seccomp` section of `config.json`: OCI runtime-spec 1.3, config-linux.md,
 * "Seccomp". Names are those of libseccomp. Types only.
 */

export interface LinuxSeccomp {
  /** For system calls that no rule names. */
  defaultAction: LinuxSeccompAction;
  /** errno of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` as default action. Default: EPERM. */
  defaultErrnoRet?: number | undefined;
  /** Besides the native one. */
  architectures?: LinuxSeccompArchitecture[] | undefined;
  /** Of seccomp(2). `undefined`: SECCOMP_FILTER_FLAG_SPEC_ALLOW is the runtime's choice. */
  flags?: LinuxSeccompFlag[] | undefined;
  /** Absolute path of a socket that receives the notification descriptor; with `SCMP_ACT_NOTIFY`. */
  listenerPath?: string | undefined;
  /** Opaque; passed to the listener. */
  listenerMetadata?: string | undefined;
  syscalls?: LinuxSeccompSyscall[] | undefined;
}

export type LinuxSeccompAction =
  | "SCMP_ACT_KILL"
  | "SCMP_ACT_KILL_PROCESS"
  | "SCMP_ACT_KILL_THREAD"
  | "SCMP_ACT_TRAP"
  | "SCMP_ACT_ERRNO"
  | "SCMP_ACT_TRACE"
  | "SCMP_ACT_ALLOW"
  | "SCMP_ACT_LOG"
  | "SCMP_ACT_NOTIFY";

export type LinuxSeccompArchitecture =
  | "SCMP_ARCH_X86"
  | "SCMP_ARCH_X86_64"
  | "SCMP_ARCH_X32"
  | "SCMP_ARCH_ARM"
  | "SCMP_ARCH_AARCH64"
  | "SCMP_ARCH_MIPS"
  | "SCMP_ARCH_MIPS64"
  | "SCMP_ARCH_MIPS64N32"
  | "SCMP_ARCH_MIPSEL"
  | "SCMP_ARCH_MIPSEL64"
  | "SCMP_ARCH_MIPSEL64N32"
  | "SCMP_ARCH_PPC"
  | "SCMP_ARCH_PPC64"
  | "SCMP_ARCH_PPC64LE"
  | "SCMP_ARCH_S390"
  | "SCMP_ARCH_S390X"
  | "SCMP_ARCH_PARISC"
  | "SCMP_ARCH_PARISC64"
  | "SCMP_ARCH_RISCV64"
  | "SCMP_ARCH_LOONGARCH64"
  | "SCMP_ARCH_M68K"
  | "SCMP_ARCH_SH"
  | "SCMP_ARCH_SHEB";

export type LinuxSeccompFlag =
  | "SECCOMP_FILTER_FLAG_TSYNC"
  | "SECCOMP_FILTER_FLAG_LOG"
  | "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
  | "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";

export interface LinuxSeccompSyscall {
  /** At least one. A name that the kernel does not know is ignored. */
  names: string[];
  action: LinuxSeccompAction;
  /** errno of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE`. Default: EPERM. */
  errnoRet?: number | undefined;
  args?: LinuxSeccompArg[] | undefined;
}

export type LinuxSeccompOperator =
  | "SCMP_CMP_NE"
  | "SCMP_CMP_LT"
  | "SCMP_CMP_LE"
  | "SCMP_CMP_EQ"
  | "SCMP_CMP_GE"
  | "SCMP_CMP_GT"
  | "SCMP_CMP_MASKED_EQ";

export interface LinuxSeccompArg {
  /** Which argument, 0 to 5. */
  index: number;
  /** To 2^64-1; beyond 2^53 as bigint (see `specToJson`). With SCMP_CMP_MASKED_EQ the mask. */
  value: number | bigint;
  /** With SCMP_CMP_MASKED_EQ the value compared with. */
  valueTwo?: number | bigint | undefined;
  op: LinuxSeccompOperator;
}
