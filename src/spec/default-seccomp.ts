/**
 * The seccomp profile of RuntimeDefault: what a container's processes may ask of the kernel, as
 * tight as Docker's (github.com/moby/profiles/seccomp 0.2.4, but for calls of architectures, which are
 * listed for all: none has them that is not theirs). What is not listed fails with EPERM; what the kernel or libseccomp does not know,
 * with ENOSYS, which libc's fallbacks understand.
 *
 * Left out on purpose: what loads code into the kernel, what sets the clock, keyrings, swap, quota,
 * mounts, new namespaces, io_uring (no filter sees its operations), userfaultfd, obsolete calls.
 */
import type { LinuxSeccomp, LinuxSeccompSyscall } from "../oci/index.js";

const ALLOWED = `
accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind breakpoint brk cachestat
cacheflush capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup
dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir
fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc
kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen
listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap
mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat
rename renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr sched_getaffinity sched_getattr sched_getparam
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32
setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address set_tls
setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
sync_file_range sync_file_range2 syncfs sysinfo syslog tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
`
  .trim()
  .split(/\s+/)
  // Reads the kernel's log: with the capability only, as below.
  .filter((name) => name !== "syslog");

/** System calls that a capability is the permission for, and what each opens up. */
const BY_CAPABILITY: Readonly<Record<string, readonly string[]>> = {
  CAP_DAC_READ_SEARCH: ["open_by_handle_at"],
  CAP_SYS_ADMIN: [
    "bpf",
    "clone",
    "clone3",
    "fanotify_init",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "lookup_dcookie",
    "lsm_get_self_attr",
    "lsm_list_modules",
    "lsm_set_self_attr",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "quotactl",
    "quotactl_fd",
    "setdomainname",
    "sethostname",
    "setns",
    "syslog",
    "umount",
    "umount2",
    "unshare",
  ],
  CAP_SYS_BOOT: ["reboot"],
  CAP_SYS_CHROOT: ["chroot"],
  CAP_SYS_MODULE: ["delete_module", "init_module", "finit_module"],
  CAP_SYS_PACCT: ["acct"],
  CAP_SYS_PTRACE: ["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
  CAP_SYS_RAWIO: ["iopl", "ioperm"],
  CAP_SYS_TIME: ["settimeofday", "stime", "clock_settime", "clock_settime64"],
  CAP_SYS_TTY_CONFIG: ["vhangup"],
  CAP_SYS_NICE: ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
  CAP_SYSLOG: ["syslog"],
  CAP_BPF: ["bpf"],
  CAP_PERFMON: ["perf_event_open"],
};

/** All CLONE_NEW* flags but CLONE_NEWTIME, whose bit is not clone(2)'s. */
const CLONE_NAMESPACES = 0x7e020000;
const AF_ALG = 38;
const AF_VSOCK = 40;
/** Of the last family that Linux 6.18 knows (AF_MCTP, socket.h). */
const LAST_FAMILY = 45;
const ENOSYS = 38;

/** ptrace may not change a filtered system call any more (seccomp(2), since Linux 4.8). */
const PTRACE_CALLS = ["process_vm_readv", "process_vm_writev", "ptrace"];

/**
 * The profile for a process with these capabilities.
 *
 * @param capabilities of the bounding set, with `CAP_`
 */
export function defaultSeccomp(capabilities: readonly string[]): LinuxSeccomp {
  const extra = capabilities.flatMap((name) => BY_CAPABILITY[name] ?? []);
  const hasAdmin = capabilities.includes("CAP_SYS_ADMIN");
  const rules: LinuxSeccompSyscall[] = [
    { names: [...new Set([...ALLOWED, ...PTRACE_CALLS, ...extra])].sort(), action: "SCMP_ACT_ALLOW" },
    // Linux, Linux32, and reading it (personality(2)): no ADDR_NO_RANDOMIZE, no READ_IMPLIES_EXEC.
    ...[0x0, 0x8, 0x20000, 0x20008, 0xffffffff].map(
      (value): LinuxSeccompSyscall => ({
        names: ["personality"],
        action: "SCMP_ACT_ALLOW",
        args: [{ index: 0, value, op: "SCMP_CMP_EQ" }],
      }),
    ),
    ...socketFamilies(),
    ...(process.arch === "x64" ? [{ names: ["modify_ldt"], action: "SCMP_ACT_ALLOW" as const }] : []),
  ];
  if (!hasAdmin) {
    rules.push(
      {
        names: ["clone"],
        action: "SCMP_ACT_ALLOW",
        args: [{ index: 0, value: CLONE_NAMESPACES, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }],
      },
      // Its flags are in memory, where no filter sees them; libc falls back to clone on ENOSYS.
      { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
    );
  }
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 1,
    ...architectures(),
    syscalls: rules,
  };
}

/**
 * Of vsock, a container would reach the hypervisor; by AF_ALG the kernel's ciphers, where bugs are found again
 * and again. Conditions on one argument cannot be joined in a rule (libseccomp), so the others are listed.
 */
function socketFamilies(): LinuxSeccompSyscall[] {
  const between = Array.from({ length: LAST_FAMILY - AF_ALG }, (_, i) => AF_ALG + 1 + i).filter((n) => n !== AF_VSOCK);
  const allow = (value: number, op: "SCMP_CMP_LT" | "SCMP_CMP_EQ"): LinuxSeccompSyscall => ({
    names: ["socket"],
    action: "SCMP_ACT_ALLOW",
    args: [{ index: 0, value, op }],
  });
  return [allow(AF_ALG, "SCMP_CMP_LT"), ...between.map((value) => allow(value, "SCMP_CMP_EQ"))];
}

/** 32-bit programs run too, under the same rules. */
function architectures(): Pick<LinuxSeccomp, "architectures"> {
  if (process.arch === "x64") return { architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"] };
  if (process.arch === "arm64") return { architectures: ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"] };
  return {};
}
