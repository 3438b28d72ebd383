// Processes by pidfd: a number may be reused, a pidfd never is.
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/files.h"
#include "sys/process.h"

namespace addon {
namespace {

// pidfdOpen(pid) -> fd
Napi::Value PidfdOpen(const Napi::CallbackInfo& info) {
  sys::Result<sys::UniqueFd> fd = sys::pidfd_open(IntArgument(info, 0));
  if (!fd) return Throw(info.Env(), fd.failure());
  return Napi::Number::New(info.Env(), fd->release());
}

// pidfdSendSignal(pidfd, signal)
Napi::Value PidfdSendSignal(const Napi::CallbackInfo& info) {
  sys::Result<void> sent = sys::pidfd_send_signal(IntArgument(info, 0), IntArgument(info, 1));
  if (!sent) return Throw(info.Env(), sent.failure());
  return info.Env().Undefined();
}

// pidfdHasExited(pidfd) -> bool. A pidfd is readable once its process has ended, reaped or not
// and whoever its parent is (pidfd_open(2)).
Napi::Value PidfdHasExited(const Napi::CallbackInfo& info) {
  pollfd poll_fd{IntArgument(info, 0), POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&poll_fd, 1, 0);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return Throw(info.Env(), sys::FailedWithErrno("poll"));
  return Napi::Boolean::New(info.Env(), ready > 0);
}

// reapChild(pidfd) -> [exitCode, signal], or undefined while it runs
Napi::Value ReapChild(const Napi::CallbackInfo& info) {
  sys::Result<sys::ExitStatus> status =
      sys::waitid_pidfd(IntArgument(info, 0), WNOHANG, nullptr);
  if (!status) return Throw(info.Env(), status.failure());
  if (!status->exited) return info.Env().Undefined();
  Napi::Array result = Napi::Array::New(info.Env(), 2);
  result.Set(0u, Napi::Number::New(info.Env(), status->code));
  result.Set(1u, Napi::Number::New(info.Env(), status->signal));
  return result;
}

// processStat(pid) -> string: /proc/PID/stat, empty where there is no such process. No disk is read.
Napi::Value ProcessStat(const Napi::CallbackInfo& info) {
  const std::string path = "/proc/" + std::to_string(IntArgument(info, 0)) + "/stat";
  sys::Result<std::string> text = sys::ReadFileAt(AT_FDCWD, path.c_str(), 4096);
  return Napi::String::New(info.Env(), text ? *text : "");
}

// waitForProcess(pidfd, timeoutMs) -> Promise<boolean>: true once the process has ended. The
// descriptor is borrowed until then. On a thread of its own: a wait would keep the pool's.
Napi::Value WaitForProcess(const Napi::CallbackInfo& info) {
  const int pidfd = IntArgument(info, 0);
  const int timeout_ms = IntArgument(info, 1);
  return SettleOnOwnThread<bool>(
      info.Env(),
      [pidfd, timeout_ms]() -> sys::Result<bool> {
        struct pollfd ended = {pidfd, POLLIN, 0};
        int ready;
        do {
          ready = ::poll(&ended, 1, timeout_ms);
        } while (ready < 0 && errno == EINTR);
        if (ready < 0) return sys::FailedWithErrno("poll");
        return ready > 0;
      },
      [](Napi::Env env, bool& has_ended) -> Napi::Value {
        return Napi::Boolean::New(env, has_ended);
      });
}

// giveBackMemory(): to the kernel what malloc(3) keeps of what was freed, by pages. 1 to 2 ms for 9 MB.
Napi::Value GiveBackMemory(const Napi::CallbackInfo& info) {
  ::malloc_trim(0);
  return info.Env().Undefined();
}

}  // namespace

void RegisterProcess(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "pidfdOpen", PidfdOpen);
  Export(env, exports, "pidfdSendSignal", PidfdSendSignal);
  Export(env, exports, "pidfdHasExited", PidfdHasExited);
  Export(env, exports, "waitForProcess", WaitForProcess);
  Export(env, exports, "reapChild", ReapChild);
  Export(env, exports, "processStat", ProcessStat);
  Export(env, exports, "giveBackMemory", GiveBackMemory);
}

}  // namespace addon
