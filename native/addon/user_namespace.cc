#include "addon/user_namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/files.h"
#include "sys/process.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif

namespace addon {
namespace {

constexpr size_t kStackBytes = 16 * 1024;

// SIGNAL-SAFE. Shares memory and descriptors with the daemon, which runs on meanwhile: system
// calls that cannot fail or whose failure writes no errno that matters before the exit.
int Block(void* argument) {
  const pid_t parent = *static_cast<const pid_t*>(argument);
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  // The parent may have died before that.
  while (::syscall(SYS_getppid) == parent) ::syscall(SYS_pause);
  return 0;
}

// The blocking child; killed and reaped with this object.
class Holder {
 public:
  Holder() = default;
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() {
    if (pid_ > 0) {
      (void)sys::pidfd_send_signal(pidfd_.get(), SIGKILL).ok();
      (void)sys::waitid_pidfd(pidfd_.get(), __WALL, nullptr).ok();
    }
    if (stack_ != MAP_FAILED) ::munmap(stack_, kStackBytes);
  }

  // A fork of the daemon would copy its page tables. Without a signal at its end, so that
  // nobody else in this program waits for it.
  sys::Result<pid_t> Start(int flags) {
    stack_ = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack_ == MAP_FAILED) return sys::FailedWithErrno("mmap");
    parent_ = ::getpid();
    sys::CloneRequest request;
    request.flags = static_cast<uint64_t>(flags) | CLONE_NEWUSER | CLONE_FILES | CLONE_CLEAR_SIGHAND;
    request.exit_signal = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    auto pid = sys::clone3_shared(request, &pidfd_, stack_, kStackBytes, Block, &parent_);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (pid) pid_ = *pid;
    return pid;
  }

 private:
  void* stack_ = MAP_FAILED;
  pid_t parent_ = -1;
  pid_t pid_ = -1;
  sys::UniqueFd pidfd_;
};

// Of the first line, the id outside.
unsigned OutsideId(const std::string& map) {
  const size_t space = map.find(' ');
  return space == std::string::npos ? 0 : static_cast<unsigned>(strtoul(map.c_str() + space, nullptr, 10));
}

}  // namespace

sys::Result<UserNamespaces> MakeUserNamespaces(const IdMaps& maps, int flags) {
  Holder holder;
  auto pid = holder.Start(flags);
  if (!pid) return pid.failure();
  const std::string directory = "/proc/" + std::to_string(*pid);
  if (auto done = sys::WriteFileAt(AT_FDCWD, (directory + "/uid_map").c_str(), maps.uids); !done) {
    return sys::Failure{"uid_map", done.failure().error};
  }
  if (auto done = sys::WriteFileAt(AT_FDCWD, (directory + "/gid_map").c_str(), maps.gids); !done) {
    return sys::Failure{"gid_map", done.failure().error};
  }
  UserNamespaces made;
  struct {
    int flag;
    const char* name;
    sys::UniqueFd* into;
  } const namespaces[] = {{0, "/ns/user", &made.user},
                          {CLONE_NEWNET, "/ns/net", &made.net},
                          {CLONE_NEWIPC, "/ns/ipc", &made.ipc},
                          {CLONE_NEWUTS, "/ns/uts", &made.uts}};
  for (const auto& ns : namespaces) {
    if ((flags & ns.flag) != ns.flag) continue;
    auto fd = sys::open_at(AT_FDCWD, (directory + ns.name).c_str(), O_RDONLY);
    if (!fd) return fd.failure();
    *ns.into = std::move(fd).value();
  }
  return made;
}

// The raw calls change the calling thread only (those of libc all threads: nptl(7)).
MappedRoot::MappedRoot(const IdMaps& maps) {
  ::syscall(SYS_setresgid, -1, OutsideId(maps.gids), -1);
  ::syscall(SYS_setresuid, -1, OutsideId(maps.uids), -1);
}

MappedRoot::~MappedRoot() {
  ::syscall(SYS_setresuid, -1, 0, -1);
  ::syscall(SYS_setresgid, -1, 0, -1);
  // A change of credentials takes the memory they share as not to be dumped (proc(5)).
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

}  // namespace addon
