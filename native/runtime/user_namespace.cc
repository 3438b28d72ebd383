#include "runtime/user_namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "sys/files.h"
#include "sys/namespaces.h"

namespace runtime {
namespace {

constexpr size_t kStackBytes = 128 << 10;

std::string MapText(const std::vector<IdMapping>& mappings) {
  std::string text;
  for (const IdMapping& mapping : mappings) {
    text += std::to_string(mapping.container_id) + " " + std::to_string(mapping.host_id) + " " +
            std::to_string(mapping.size) + "\n";
  }
  return text;
}

struct Job {
  int userns;
  sys::CloneRequest request;
  void (*run)(const void*);
  const void* argument;
  sys::UniqueFd* pidfd;
  sys::Result<pid_t> made;
};

int RunJob(void* argument) {
  auto* job = static_cast<Job*>(argument);
  if (auto joined = sys::setns(job->userns, CLONE_NEWUSER); !joined) {
    job->made = joined.failure();
    return 1;
  }
  job->made = sys::clone3(job->request, job->pidfd);
  if (job->made.ok() && *job->made == 0) job->run(job->argument);
  return 0;
}

}  // namespace

sys::Result<void> WriteIdMaps(pid_t pid, const std::vector<IdMapping>& uids,
                              const std::vector<IdMapping>& gids) {
  const std::string directory = "/proc/" + std::to_string(pid);
  const std::string uid_map = directory + "/uid_map";
  const std::string gid_map = directory + "/gid_map";
  auto done = sys::WriteFileAt(AT_FDCWD, uid_map.c_str(), MapText(uids));
  return done ? sys::WriteFileAt(AT_FDCWD, gid_map.c_str(), MapText(gids)) : done;
}

sys::Result<sys::UniqueFd> MakeUserNamespace(const std::vector<IdMapping>& uids,
                                             const std::vector<IdMapping>& gids) {
  sys::CloneRequest request;
  request.flags = CLONE_NEWUSER;
  sys::UniqueFd pidfd;
  auto pid = sys::clone3(request, &pidfd);
  if (!pid) return pid.failure();
  if (*pid == 0) {
    // Dies with its parent; nothing is asked of it but to be there.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    for (;;) ::syscall(SYS_pause);
  }
  auto done = WriteIdMaps(*pid, uids, gids);
  const std::string path = "/proc/" + std::to_string(*pid) + "/ns/user";
  auto fd = sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY);
  (void)sys::pidfd_send_signal(pidfd.get(), SIGKILL).ok();
  (void)sys::waitid_pidfd(pidfd.get(), 0, nullptr).ok();
  if (!done) return done.failure();
  return fd;
}

// SAFETY: the intermediate shares memory and descriptors while this process is suspended (vfork);
// the child it clones has copies of both, as of a plain clone3.
sys::Result<pid_t> CloneInUserNamespace(int userns, const sys::CloneRequest& request,
                                        void (*run)(const void*), const void* argument,
                                        sys::UniqueFd* pidfd) {
  void* stack = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return sys::FailedWithErrno("mmap");
  Job job{userns, request, run, argument, pidfd, sys::Failure{"clone3", ECHILD}};
  job.request.flags |= CLONE_PARENT;
  job.request.exit_signal = 0;  // clone(2): with CLONE_PARENT it is the intermediate's
  sys::CloneRequest intermediate;
  intermediate.flags = CLONE_FILES;
  sys::UniqueFd intermediate_pidfd;
  auto pid = sys::clone3_vfork(intermediate, &intermediate_pidfd, stack, kStackBytes, RunJob, &job);
  if (pid) (void)sys::waitid_pidfd(intermediate_pidfd.get(), 0, nullptr).ok();
  ::munmap(stack, kStackBytes);
  // Joining has changed the credentials of a process with this memory: it is taken as not
  // dumpable now, and /proc/self would belong to the host's root alone (proc(5)).
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  if (!pid) return pid.failure();
  return std::move(job.made);
}

}  // namespace runtime
