// The keeper of a plugin. A daemon that is killed with -9 can end nothing any more, and a plugin may ignore
// that its connection is closed. Of what the kernel does by itself, PR_SET_PDEATHSIG reaches one process and
// none of its children, and cgroup.kill waits for the next daemon; so somebody waits beside the plugin.
#include "monitor/plugin_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "monitor/cgroup.h"
#include "sys/files.h"
#include "sys/process.h"
#include "sys/unique_fd.h"

namespace monitor {
namespace {

constexpr int kConnectionFd = 3;
constexpr int kDaemonFd = 4;
constexpr int kGraceMs = 2000;
constexpr int kCannotStart = 127;

// Not ignored, which the plugin would inherit: execve(2) resets handlers. What is meant for the plugin comes
// over the socket.
void StayForSignals() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2}) {
    ::sigaction(signal, &action, nullptr);
  }
}

// In the child. Returns the errno where it could not become the program.
int Become(char* program, pid_t keeper) {
  // The keeper has one thread, whose end is its own (PR_SET_PDEATHSIG(2const)).
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return errno;
  if (::getppid() != keeper) return ESRCH;
  ::setsid();
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  char* const arguments[] = {program, nullptr};
  ::execve(program, arguments, environ);
  return errno;
}

struct Plugin {
  pid_t pid = -1;
  sys::UniqueFd pidfd;
};

// Settles after the execve, whose failure comes through a pipe that a success closes.
sys::Result<Plugin> Start(const std::string& cgroup, char* program) {
  sys::UniqueFd directory;
  if (!cgroup.empty()) {
    auto opened = sys::open_at(AT_FDCWD, cgroup.c_str(), O_PATH | O_DIRECTORY);
    if (!opened) return opened.failure();
    directory = std::move(*opened);
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return sys::FailedWithErrno("pipe2");
  const sys::UniqueFd failed(ends[0]);
  sys::UniqueFd failing(ends[1]);
  const pid_t keeper = ::getpid();
  sys::CloneRequest request;
  request.cgroup = directory.valid() ? directory.get() : -1;
  Plugin plugin;
  auto pid = sys::clone3(request, &plugin.pidfd);
  if (!pid) return pid.failure();
  if (*pid == 0) {
    const int error = Become(program, keeper);
    static_cast<void>(!::write(failing.get(), &error, sizeof error));
    ::_exit(kCannotStart);
  }
  plugin.pid = *pid;
  failing.reset();
  int error = 0;
  ssize_t size;
  do {
    size = ::read(failed.get(), &error, sizeof error);
  } while (size < 0 && errno == EINTR);
  if (size == sizeof error) {
    static_cast<void>(sys::waitid_pidfd(plugin.pidfd.get(), 0, nullptr).ok());
    return sys::Failure{"execve", error};
  }
  return plugin;
}

bool HasEnded(int pidfd, int timeout_ms) {
  pollfd ended{pidfd, POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&ended, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

// Waits for the end of either.
void WaitForEnd(const Plugin& plugin) {
  pollfd watched[] = {{plugin.pidfd.get(), POLLIN, 0}, {kDaemonFd, POLLIN, 0}};
  while (::poll(watched, 2, -1) < 0 && errno == EINTR) {
  }
  if (watched[0].revents != 0) return;
  static_cast<void>(sys::pidfd_send_signal(plugin.pidfd.get(), SIGTERM).ok());
  static_cast<void>(HasEnded(plugin.pidfd.get(), kGraceMs));
}

// The cgroup has its children as well, also those that left its session.
void EndAll(const Plugin& plugin, const std::string& cgroup) {
  static_cast<void>(sys::pidfd_send_signal(plugin.pidfd.get(), SIGKILL).ok());
  // Until it has been reaped its number is the group's.
  ::kill(-plugin.pid, SIGKILL);
  if (!cgroup.empty()) static_cast<void>(KillCgroup(cgroup).ok());
}

// As the plugin ended, so that whoever waits for the keeper sees it.
int EndAs(const sys::ExitStatus& status) {
  if (status.signal == 0) return status.code;
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  ::signal(status.signal, SIG_DFL);
  ::raise(status.signal);
  return 128 + status.signal;
}

}  // namespace

int PluginKeeperMain(int argc, char** argv) {
  if (argc != 3 || ::fcntl(kDaemonFd, F_SETFD, FD_CLOEXEC) < 0) return 2;
  static_cast<void>(sys::close_range(kDaemonFd + 1, ~0u, 0).ok());
  const std::string cgroup = argv[1];
  ::prctl(PR_SET_NAME, "minke-plugin");
  StayForSignals();
  auto plugin = Start(cgroup, argv[2]);
  const int32_t answer = plugin ? 0 : plugin.failure().error;
  // The connection is the plugin's alone: its end is seen by it.
  ::close(kConnectionFd);
  static_cast<void>(::send(kDaemonFd, &answer, sizeof answer, MSG_NOSIGNAL));
  if (!plugin) return kCannotStart;
  WaitForEnd(*plugin);
  EndAll(*plugin, cgroup);
  auto status = sys::waitid_pidfd(plugin->pidfd.get(), 0, nullptr);
  return status ? EndAs(*status) : 1;
}

}  // namespace monitor
