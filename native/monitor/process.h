// One child of the monitor with its standard streams: what containers and execs have in common.
//
//   starting --exec ok--> running --reaped--> draining --streams settled--> ended
//      |                                                                     ^
//      +--child failed--> failed --reaped--> (OnStartFailed)                 |
//                                            draining lasts 100 ms at most --+
//
// Of another runtime the first two states are its calls: `create` and `start`, or `exec`. The process
// it leaves is adopted by its pid file; one that ends before its call has is settled after the call.
//
// A process that inherited the streams may keep them open for ever, so after the drain time only
// what was in the pipe when the process ended is still read.
#pragma once

#include <sys/resource.h>

#include "monitor/exit_file.h"
#include "monitor/loop.h"
#include "monitor/runtime_call.h"
#include "monitor/stdio.h"
#include "runtime/container.h"
#include "sys/process.h"
#include "sys/unique_fd.h"
#include "sys/wait_any.h"

namespace monitor {

class Process : public Mortal, public OutputReader, public InputWriter {
 public:
  pid_t pid() const { return launch_.pid; }
  bool is_starting() const { return state_ == State::kStarting; }
  bool is_running() const { return state_ == State::kRunning; }
  bool is_ended() const { return state_ == State::kEnded; }
  // Has a process that is to be reaped.
  bool is_alive() const { return (launch_.pid > 0 || call_ != nullptr) && !is_reaped_; }
  bool is_reaped() const { return is_reaped_; }
  int64_t started_at_ns() const { return exit_.started_at_ns; }
  const ExitStatus& exit_status() const { return exit_; }

  // By pidfd. False where it has been reaped.
  bool SendSignal(int signal);
  // Sets the size of the terminal, at once or when there is one. False without a terminal.
  bool Resize(unsigned columns, unsigned rows);
  bool has_terminal() const { return has_terminal_; }
  bool has_stdin() const { return has_stdin_; }
  // The monitor has reaped this process.
  void TakeExit(const sys::ExitStatus& status, const struct rusage& usage);
  // The call of another runtime that is under way, 0 for none; and that it has been reaped.
  pid_t call_pid() const { return call_ == nullptr ? 0 : call_->pid(); }
  // strays: children that were reaped while no process was known by their number
  void TakeCallEnd(const sys::ExitStatus& status, const std::vector<sys::AnyExit>* strays);

 protected:
  Process(Loop* loop, Scratch* scratch);

  // Makes the pipes that the child gets: `child` receives borrowed descriptors for
  // LaunchRequest::stdio, valid until CloseChildEnds().
  sys::Result<void> OpenStdio(bool has_terminal, bool has_stdin, int child[3]);
  void CloseChildEnds();
  // Takes a launch under way and awaits its report. Output is not read before Resume where paused.
  bool Await(runtime::Launch launch, bool is_output_paused);

  // Reads output from now on, or not before Resume.
  void ReadOutput(bool is_paused);
  // Calls another runtime; OnCallDone comes when it has ended. False: it could not be called.
  bool Call(std::unique_ptr<RuntimeCall> call, const char* command, const int stdio[3], runtime::Problem* problem);
  void KillCall() { if (call_) call_->Kill(); }
  // Takes over the process that a call has left, and its terminal.
  bool Adopt(RuntimeCall* call, runtime::Problem* problem);
  void Began();
  void CouldNotBegin(const runtime::Problem& problem);
  // A call has ended: well, or with a problem.
  virtual void OnCallDone(RuntimeCall* call, const runtime::Problem* problem) = 0;

  // The program runs.
  virtual void OnStarted() = 0;
  // The child could not exec, and is reaped.
  virtual void OnStartFailed(const runtime::Problem& problem) = 0;
  virtual void OnBytes(Stream stream, std::string_view bytes) = 0;
  // The process has ended: exit_status() is known, streams may still hold output.
  virtual void OnReaped() = 0;
  // May the drain begin? Asked at OnReaped and by ContinueDrain().
  virtual bool CanDrain() const { return true; }
  // Reaped, and the streams are settled and closed.
  virtual void OnEnded() = 0;

  void ContinueDrain();

  ExitStatus exit_;
  Output out_, err_;
  Input in_;

 private:
  enum class State : uint8_t { kStarting, kFailed, kRunning, kDraining, kEnded };

  void OnOutput(Stream stream, std::string_view bytes) final;
  void OnOutputEnd(Stream stream) final;
  void OnReport(uint32_t events);
  void OpenTerminal();
  void Settle();
  void OnPidfd(uint32_t events);
  void OnDrainDeadline();
  void EndIfSettled();
  void ApplySize();

  State state_ = State::kStarting;
  bool is_reaped_ = false;
  bool has_terminal_ = false;
  bool has_stdin_ = false;
  bool is_output_paused_ = false;
  bool is_drain_over_ = false;
  std::unique_ptr<RuntimeCall> call_;
  const std::vector<sys::AnyExit>* strays_ = nullptr;
  unsigned columns_ = 0, rows_ = 0;
  runtime::Launch launch_;
  runtime::Problem problem_;
  sys::UniqueFd child_ends_[3];
  Watch<Process, &Process::OnReport> report_watch_;
  Watch<Process, &Process::OnPidfd> pidfd_watch_;
  Alarm<Process, &Process::OnDrainDeadline> drain_alarm_;
};

}  // namespace monitor
