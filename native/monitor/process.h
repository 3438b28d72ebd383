// One child of the monitor with its standard streams: what containers and execs have in common.
//
//   starting --exec ok--> running --reaped--> draining --streams settled--> ended
//      |                                                                     ^
//      +--child failed--> failed --reaped--> (OnStartFailed)                 |
//                                            draining lasts 100 ms at most --+
//
// A process that inherited the streams may keep them open for ever, so after the drain time only
// what was in the pipe when the process ended is still read.
#pragma once

#include <sys/resource.h>

#include "monitor/exit_file.h"
#include "monitor/loop.h"
#include "monitor/stdio.h"
#include "runtime/container.h"
#include "sys/process.h"
#include "sys/unique_fd.h"

namespace monitor {

class Process : public Mortal, public OutputReader, public InputWriter {
 public:
  pid_t pid() const { return launch_.pid; }
  bool is_starting() const { return state_ == State::kStarting; }
  bool is_running() const { return state_ == State::kRunning; }
  bool is_ended() const { return state_ == State::kEnded; }
  // Has a process that is to be reaped.
  bool is_alive() const { return launch_.pid > 0 && !is_reaped_; }
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

 protected:
  Process(Loop* loop, Scratch* scratch);

  // Makes the pipes that the child gets: `child` receives borrowed descriptors for
  // LaunchRequest::stdio, valid until CloseChildEnds().
  sys::Result<void> OpenStdio(bool has_terminal, bool has_stdin, int child[3]);
  void CloseChildEnds();
  // Takes a launch under way and awaits its report. Output is not read before Resume where paused.
  bool Await(runtime::Launch launch, bool is_output_paused);

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
  unsigned columns_ = 0, rows_ = 0;
  runtime::Launch launch_;
  runtime::Problem problem_;
  sys::UniqueFd child_ends_[3];
  Watch<Process, &Process::OnReport> report_watch_;
  Watch<Process, &Process::OnPidfd> pidfd_watch_;
  Alarm<Process, &Process::OnDrainDeadline> drain_alarm_;
};

}  // namespace monitor
