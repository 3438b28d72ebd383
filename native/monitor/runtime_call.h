// One call of another OCI runtime's command line (crun, runc): `create`, `start`, `exec`, `delete`.
//
// The monitor is a subreaper, so what such a runtime starts and leaves behind becomes its child.
// What the runtime says of a failure comes by its --log file; its standard streams are the
// container's. Nothing here waits: Monitor tells when the process has ended.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "runtime/container.h"
#include "sys/process.h"
#include "sys/unique_fd.h"

namespace monitor {

// Where a container is to be run by: `runtimeHandler` of a start request.
struct OtherRuntime {
  std::string path;               // absolute; empty: none, the container is started in-process
  std::vector<std::string> args;  // before the command
  std::string state_dir;          // absolute, exists, the container's own: --root, and the files of calls

  bool is_set() const { return !path.empty(); }
};

class RuntimeCall {
 public:
  explicit RuntimeCall(const OtherRuntime* runtime);
  ~RuntimeCall();
  RuntimeCall(const RuntimeCall&) = delete;
  RuntimeCall& operator=(const RuntimeCall&) = delete;

  // Each adds arguments of the command; before Start.
  void Add(std::string argument) { arguments_.push_back(std::move(argument)); }
  void AddPidFile();
  // Listens for the terminal's master, which the runtime sends.
  sys::Result<void> AddConsoleSocket();
  // A process object for `exec`, as a file.
  sys::Result<void> AddProcess(const std::string& json);

  // stdio: borrowed; -1 = /dev/null.
  sys::Result<void> Start(const std::string& command, const int stdio[3]);
  pid_t pid() const { return pid_; }
  const std::string& command() const { return command_; }
  void Kill();

  // The following once it has ended well.
  pid_t ReadPid() const;  // 0: there is none
  sys::UniqueFd TakeTerminal();
  // Why it ended otherwise, in its own words where it left any.
  runtime::Problem ToProblem(const sys::ExitStatus& status) const;

 private:
  std::string FileName(const char* kind) const;

  const OtherRuntime* const runtime_;
  const unsigned serial_;
  std::string command_;
  std::vector<std::string> arguments_;
  sys::UniqueFd directory_, listener_, pidfd_;
  pid_t pid_ = 0;
};

}  // namespace monitor
