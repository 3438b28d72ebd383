// The monitor's beginning: arguments, descriptors, signals; then the loop until it is told to end.
//
// Nothing that a child would inherit through execve is left changed: signals have handlers
// (execve resets those) instead of being ignored or blocked, and every descriptor is close-on-exec.
#include "monitor/monitor_main.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "monitor/monitor.h"
#include "sys/process.h"

namespace monitor {
namespace {

volatile sig_atomic_t g_terminate = 0;
int g_wake_fd = -1;

// SIGNAL-SAFE: one write to an eventfd.
void OnSignal(int signal) {
  const int saved_errno = errno;
  if (signal == SIGTERM) g_terminate = 1;
  if (signal == SIGTERM || signal == SIGCHLD) {
    const uint64_t one = 1;
    static_cast<void>(!::write(g_wake_fd, &one, sizeof one));
  }
  errno = saved_errno;
}

void HandleSignals() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  // SIGXFSZ: a file size limit is an error of write(2) like a full disk.
  for (const int signal : {SIGCHLD, SIGTERM, SIGPIPE, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGXFSZ}) {
    ::sigaction(signal, &action, nullptr);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Takes an inherited descriptor. False where it is not open.
bool TakeFd(std::string name, int number, MonitorSettings* settings) {
  if (::fcntl(number, F_SETFD, FD_CLOEXEC) < 0) return false;
  if (name == "control") {
    settings->control = number;
  } else {
    settings->held.push_back({std::move(name), number});
  }
  return true;
}

// Without --fd: what is open of 3 control, 4 net, 5 ipc, 6 uts, 7 shm and 8 user.
void TakeUsualFds(MonitorSettings* settings) {
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(3, SOL_SOCKET, SO_TYPE, &type, &size) == 0) TakeFd("control", 3, settings);
  int number = 4;
  for (const char* const name : {"net", "ipc", "uts", "shm", "user"}) TakeFd(name, number++, settings);
}

// `--fd control=3 net=4 ...` is the end of the arguments.
bool ReadArguments(int argc, char** argv, MonitorSettings* settings) {
  if (argc < 3) return false;
  settings->sandbox_id = argv[1];
  settings->socket_path = argv[2];
  if (argc == 3) TakeUsualFds(settings);
  if (argc > 3 && strcmp(argv[3], "--fd") != 0) return false;
  for (int i = 4; i < argc; ++i) {
    const char* const equals = strchr(argv[i], '=');
    char* end = nullptr;
    const long number = equals == nullptr ? -1 : strtol(equals + 1, &end, 10);
    if (equals == nullptr || *end != '\0' || number < 3 || number > 1 << 20) return false;
    std::string name(argv[i], static_cast<size_t>(equals - argv[i]));
    if (!TakeFd(std::move(name), static_cast<int>(number), settings)) return false;
  }
  return !settings->sandbox_id.empty() && !settings->socket_path.empty();
}

// Closes what was inherited but not named, and makes sure that 0, 1 and 2 are taken.
void CloseOthers(const MonitorSettings& settings) {
  std::vector<unsigned> kept;
  if (settings.control >= 0) kept.push_back(static_cast<unsigned>(settings.control));
  for (const HeldFd& held : settings.held) kept.push_back(static_cast<unsigned>(held.number));
  if (settings.device_policy >= 0) kept.push_back(static_cast<unsigned>(settings.device_policy));
  std::sort(kept.begin(), kept.end());
  unsigned first = 3;
  for (const unsigned fd : kept) {
    if (fd > first) static_cast<void>(sys::close_range(first, fd - 1, 0).ok());
    first = fd + 1;
  }
  static_cast<void>(sys::close_range(first, ~0u, 0).ok());
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
  }
}

// Shows as `monitor[<sandbox>]` in ps: the arguments lie one after the other in memory.
void SetTitle(int argc, char** argv, const std::string& sandbox_id) {
  char* const begin = argv[0];
  char* const end = argv[argc - 1] + strlen(argv[argc - 1]);
  const std::string title = "monitor[" + sandbox_id.substr(0, 13) + "]";
  if (title.size() > static_cast<size_t>(end - begin)) return;
  memset(begin, 0, static_cast<size_t>(end - begin));
  memcpy(begin, title.data(), title.size());
}

int Fail(const char* what, const sys::Failure& failure) {
  dprintf(2, "minke-monitor: %s: %s: %s\n", what, failure.op, strerrorname_np(failure.error));
  return 1;
}

}  // namespace

int RunMonitor(int argc, char** argv, MonitorSettings settings) {
  CloseOthers(settings);
  // Freed memory goes back to the kernel: a burst must not stay in the monitor's size.
  ::mallopt(M_MMAP_THRESHOLD, 64 * 1024);
  ::mallopt(M_TRIM_THRESHOLD, 64 * 1024);
  ::mallopt(M_TOP_PAD, 0);
  ::prctl(PR_SET_NAME, "minke-monitor");
  ::setsid();
  ::umask(022);  // inherited by containers; nothing here relies on it
  if (::chdir("/") < 0) return Fail("leave the working directory", sys::FailedWithErrno("chdir"));
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return Fail("become a subreaper", sys::FailedWithErrno("prctl"));
  g_wake_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (g_wake_fd < 0) return Fail("watch children", sys::FailedWithErrno("eventfd"));
  HandleSignals();
  SetTitle(argc, argv, settings.sandbox_id);
  Monitor monitor(std::move(settings));
  const auto opened = monitor.Open(g_wake_fd, &g_terminate);
  if (!opened) return Fail("start", opened.failure());
  monitor.Run();
  return 0;
}

int MonitorMain(int argc, char** argv) {
  MonitorSettings settings;
  if (!ReadArguments(argc, argv, &settings)) {
    dprintf(2, "usage: minke-monitor SANDBOX-ID SOCKET [--fd NAME=NUMBER...]\n");
    return 2;
  }
  return RunMonitor(argc, argv, std::move(settings));
}

}  // namespace monitor
