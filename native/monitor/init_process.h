// Starts minke-init, pid 1 of the PID namespace that a sandbox's containers share, and keeps its pid.
#pragma once

#include <sys/types.h>

#include <string>

#include "monitor/loop.h"
#include "sys/result.h"
#include "sys/unique_fd.h"

namespace monitor {

class InitOwner {
 public:
  virtual ~InitOwner() = default;
  // It is ready to be joined (error 0), or has failed with an errno and ends.
  virtual void OnInitReady(int error) = 0;
};

class InitProcess {
 public:
  InitProcess(Loop* loop, InitOwner* owner) : owner_(owner), ready_watch_(loop, this) {}

  // Runs this program once more, as minke-init, in a new PID and mount namespace and in `cgroup`.
  // userns: whom both belong to, -1 for the caller's.
  sys::Result<void> Start(const std::string& cgroup, int userns);
  // 0: none.
  pid_t pid() const { return pid_; }
  bool is_ready() const { return pid_ > 0 && !ready_.valid(); }
  void Kill();
  // Kills and reaps it: nobody else would do so soon once its parent is gone.
  void End();
  void NoteExit();

 private:
  void OnReadyFd(uint32_t events);

  InitOwner* const owner_;
  pid_t pid_ = 0;
  sys::UniqueFd pidfd_;
  sys::UniqueFd ready_;
  Watch<InitProcess, &InitProcess::OnReadyFd> ready_watch_;
};

}  // namespace monitor
