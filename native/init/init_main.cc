// minke-init: pid 1 of a PID namespace that the containers of a sandbox share.
//
// It only reaps what the kernel gives it: a pid 1 that does not wait would let every orphan stay a
// zombie. It forwards no signal and starts nothing. When it ends, the kernel kills all that is left
// in the namespace (pid_namespaces(7)). The containers see it, so before it says that it is ready
// it has nothing that they could reach through it: no root directory but an empty one, no
// capability, no descriptor; and a SIGTERM counts only if it comes from outside the namespace.
#include "init/init_main.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/process.h"

namespace init {
namespace {

// Where the monitor waits for an int32: 0 for ready, else an errno.
constexpr int kReadyFd = 3;

void ReapAll() {
  for (;;) {
    const pid_t pid = ::waitpid(-1, nullptr, WNOHANG);
    if (pid == 0) return;
    if (pid < 0 && errno != EINTR) return;
  }
}

// The mount namespace is ours alone: its root becomes an empty read-only tmpfs. /proc is only
// a directory that every root has. pivot_root(2), "pivot_root(".", ".")".
bool LeaveRoot() {
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=0,nr_inodes=1,mode=0") == 0 &&
         ::chdir("/proc") == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 && ::umount2(".", MNT_DETACH) == 0 &&
         ::chdir("/") == 0;
}

// Bounding set first: dropping from it needs CAP_SETPCAP (capabilities(7)).
bool DropCapabilities() {
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) return false;
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::syscall(SYS_capset, &header, none) == 0;
}

bool Isolate() {
  // Nobody in the namespace may trace it or look into its /proc directory.
  return ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && LeaveRoot() && DropCapabilities();
}

}  // namespace

int InitMain(int /*argc*/, char** /*argv*/) {
  ::prctl(PR_SET_NAME, "minke-init");
  ::setsid();
  sigset_t handled;
  ::sigemptyset(&handled);
  ::sigaddset(&handled, SIGCHLD);
  ::sigaddset(&handled, SIGTERM);
  ::sigprocmask(SIG_SETMASK, &handled, nullptr);
  if (::getpid() == 1) {
    const int32_t error = Isolate() ? 0 : errno;
    static_cast<void>(!::write(kReadyFd, &error, sizeof error));
    if (error != 0) return 1;
    static_cast<void>(sys::close_range(0, ~0u, 0).ok());
  }
  for (;;) {
    // Children that ended before the mask was set have left SIGCHLD pending or nothing at all.
    ReapAll();
    siginfo_t info;
    const int signal = ::sigwaitinfo(&handled, &info);
    // A sender outside of the namespace has pid 0 here; sigqueue could claim that, but not SI_USER
    // (rt_sigqueueinfo(2)).
    if (signal == SIGTERM && info.si_code == SI_USER && (info.si_pid == 0 || ::getpid() != 1)) return 0;
  }
}

}  // namespace init
