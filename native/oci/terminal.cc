#include "oci/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <string_view>

#include "runtime/describe_report.h"
#include "sys/files.h"
#include "sys/process.h"
#include "sys/unix_socket.h"

namespace oci {
namespace {

// The caller's terminal in raw mode, and back.
class RawMode {
 public:
  explicit RawMode(bool wanted) : is_raw_(wanted && ::tcgetattr(0, &before_) == 0) {
    if (!is_raw_) return;
    struct termios raw = before_;
    ::cfmakeraw(&raw);
    raw.c_oflag |= OPOST;
    ::tcsetattr(0, TCSANOW, &raw);
  }
  ~RawMode() {
    if (is_raw_) ::tcsetattr(0, TCSANOW, &before_);
  }

 private:
  struct termios before_;
  bool is_raw_;
};

void CopySize(int master) {
  struct winsize size;
  if (master >= 0 && ::ioctl(0, TIOCGWINSZ, &size) == 0) ::ioctl(master, TIOCSWINSZ, &size);
}

// Moves what is there from one descriptor to the other. False at the end of input.
bool Pump(int from, int to) {
  char buffer[16384];
  const ssize_t got = ::read(from, buffer, sizeof buffer);
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (got <= 0) return false;
  return sys::WriteAll(to, {buffer, static_cast<size_t>(got)}).ok();
}

void Forward(int signals, int pidfd, int master) {
  struct signalfd_siginfo info;
  while (::read(signals, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGCHLD || signal == SIGPIPE) continue;
    if (signal == SIGWINCH) CopySize(master);
    (void)sys::pidfd_send_signal(pidfd, signal).ok();
  }
}

}  // namespace

int WaitInForeground(pid_t pid, int pidfd, int master) {
  (void)pid;
  sigset_t all;
  ::sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
    ::sigdelset(&all, fault);
  }
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  sys::UniqueFd signals(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
  RawMode raw(master >= 0);
  CopySize(master);
  struct pollfd polled[4] = {{pidfd, POLLIN, 0},
                             {signals.get(), POLLIN, 0},
                             {master, POLLIN, 0},
                             {master >= 0 ? 0 : -1, POLLIN, 0}};
  for (;;) {
    if (::poll(polled, 4, -1) < 0 && errno != EINTR) break;
    if (polled[2].revents != 0 && !Pump(master, 1)) polled[2].fd = -1;
    if (polled[3].revents != 0 && !Pump(0, master)) polled[3].fd = -1;
    if (polled[1].revents != 0) Forward(signals.get(), pidfd, master);
    if (polled[0].revents != 0) break;
  }
  // What the last process wrote is still in the pty.
  while (polled[2].fd >= 0 && ::poll(&polled[2], 1, 0) > 0 && Pump(master, 1)) {
  }
  auto status = sys::waitid_pidfd(pidfd, 0, nullptr);
  if (!status) return 255;
  return status->signal != 0 ? 128 + status->signal : status->code;
}

bool SendTerminal(const std::string& path, int master, std::string* problem) {
  // Receivers expect a non-empty message.
  auto sent = sys::send_fd_to_path(path, "/dev/ptmx", master);
  if (sent) return true;
  *problem = "send terminal to \"" + path + "\": " + sent.failure().op + ": " +
             runtime::ErrnoName(sent.failure().error);
  return false;
}

}  // namespace oci
