// minke-init: pid 1 of a PID namespace that the containers of a sandbox share.
//
// It only reaps what the kernel gives it: a pid 1 that does not wait would let every orphan stay a
// zombie. It forwards no signal and starts nothing. When it ends, the kernel kills all that is left
// in the namespace (pid_namespaces(7)), so it ends on SIGTERM only.
#include "init/init_main.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace init {
namespace {

// A pid 1 receives from inside its namespace only signals that it handles (pid_namespaces(7)), and
// from its ancestors also SIGKILL and SIGSTOP; blocked ones are taken by sigwaitinfo.
void ReapAll() {
  for (;;) {
    const pid_t pid = ::waitpid(-1, nullptr, WNOHANG);
    if (pid == 0) return;
    if (pid < 0 && errno != EINTR) return;
  }
}

}  // namespace

int InitMain(int /*argc*/, char** /*argv*/) {
  ::prctl(PR_SET_NAME, "minke-init");
  sigset_t handled;
  ::sigemptyset(&handled);
  ::sigaddset(&handled, SIGCHLD);
  ::sigaddset(&handled, SIGTERM);
  ::sigprocmask(SIG_SETMASK, &handled, nullptr);
  for (;;) {
    // Children that ended before the mask was set have left SIGCHLD pending or nothing at all.
    ReapAll();
    const int signal = ::sigwaitinfo(&handled, nullptr);
    if (signal == SIGTERM) return 0;
  }
}

}  // namespace init
