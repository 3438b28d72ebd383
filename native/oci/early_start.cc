// The program's entry point, ahead of libc's: runs this very program again through a read-only,
// detached clone of the mount of its own file, where the command starts processes.
//
// A container that gets hold of /proc/PID/exe (the class of CVE-2019-5736) then finds a file on a
// mount that cannot be written through and that belongs to no mount namespace once the program
// runs, so that it can be neither remounted nor cloned. What fails here is left to
// sys::reexec_from_sealed_memfd. Before libc starts, since libc asks CPUID dozens of times, each
// a trap where the machine is virtual: two starts of libc cost more than a container's mounts.
//
// Nothing of libc works yet: no errno, no stack protector, no memcpy or strlen (indirect functions
// that are resolved later). System calls by hand; the loops are kept from becoming calls.
#if defined(__x86_64__)

#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#define BEFORE_LIBC \
  __attribute__((no_stack_protector, no_sanitize("all"), optimize("no-tree-loop-distribute-patterns")))

namespace {

BEFORE_LIBC long SystemCall(long number, long a, long b, long c, long d, long e) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
               : "rcx", "r11", "memory");
  return result;
}

BEFORE_LIBC bool Equals(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) a++, b++;
  return *a == *b;
}

BEFORE_LIBC bool StartsWith(const char* text, const char* prefix) {
  while (*prefix != '\0' && *text == *prefix) text++, prefix++;
  return *prefix == '\0';
}

// Whether the command is one that clones a child. Global options come before it; those with a
// value take the next argument where it is not behind "=" (oci/commands.cc knows them).
BEFORE_LIBC bool StartsProcesses(char* const* argv) {
  for (argv++; *argv != nullptr; argv++) {
    const char* argument = *argv;
    if (argument[0] != '-') {
      return Equals(argument, "run") || Equals(argument, "create") || Equals(argument, "exec");
    }
    while (*argument == '-') argument++;
    const bool has_value =
        Equals(argument, "root") || Equals(argument, "log") || Equals(argument, "log-format");
    if (has_value && *++argv == nullptr) return false;
  }
  return false;
}

// Started by execveat(2), the kernel gives "/dev/fd/N" as the name: that is how it starts itself.
BEFORE_LIBC bool IsStartedByDescriptor(const Elf64_auxv_t* entry) {
  for (; entry->a_type != AT_NULL; entry++) {
    if (entry->a_type == AT_EXECFN) {
      return StartsWith(reinterpret_cast<const char*>(entry->a_un.a_val), "/dev/fd/");
    }
  }
  return false;
}

}  // namespace

extern "C" BEFORE_LIBC void minke_before_libc(long* stack) {
  char** argv = reinterpret_cast<char**>(stack + 1);
  char** envp = argv + stack[0] + 1;
  char** end = envp;
  while (*end != nullptr) end++;
  if (stack[0] < 1 || IsStartedByDescriptor(reinterpret_cast<Elf64_auxv_t*>(end + 1))) return;
  if (!StartsProcesses(argv)) return;
  const long mount = SystemCall(SYS_open_tree, AT_FDCWD, reinterpret_cast<long>("/proc/self/exe"),
                                OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, 0, 0);
  if (mount < 0) return;
  const struct mount_attr read_only = {MOUNT_ATTR_RDONLY, 0, 0, 0};
  const long empty = reinterpret_cast<long>("");
  // Above 2: descriptors 0 to 2 may be closed, and would then seem to be standard streams.
  if (mount > 2 && SystemCall(SYS_mount_setattr, mount, empty, AT_EMPTY_PATH,
                              reinterpret_cast<long>(&read_only), sizeof read_only) == 0) {
    SystemCall(SYS_execveat, mount, empty, reinterpret_cast<long>(argv),
               reinterpret_cast<long>(envp), AT_EMPTY_PATH);
  }
  SystemCall(SYS_close, mount, 0, 0, 0, 0);
}

// x86-64 psABI, "Process Initialization": rsp points to argc, rdx is a function for atexit.
asm(R"(
  .globl minke_start
  .type minke_start, @function
minke_start:
  xor %ebp, %ebp
  mov %rsp, %rbx
  mov %rdx, %r12
  mov %rsp, %rdi
  and $-16, %rsp
  call minke_before_libc
  mov %rbx, %rsp
  mov %r12, %rdx
  jmp _start
)");

#endif
