#include "monitor/process.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "monitor/clock.h"

namespace monitor {
namespace {

constexpr int64_t kDrainMs = 100;

}  // namespace

Process::Process(Loop* loop, Scratch* scratch)
    : out_(loop, scratch, this, Stream::kStdout),
      err_(loop, scratch, this, Stream::kStderr),
      in_(loop, this),
      report_watch_(loop, this),
      pidfd_watch_(loop, this),
      drain_alarm_(loop, this) {}

sys::Result<void> Process::OpenStdio(bool has_terminal, bool has_stdin, int child[3]) {
  has_terminal_ = has_terminal;
  has_stdin_ = has_stdin;
  if (has_terminal) return {};
  for (int stream = 0; stream < 3; ++stream) {
    if (stream == 0 && !has_stdin) continue;
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return sys::FailedWithErrno("pipe2");
    // The pipe is root's, and a container's own user opens it by name: /dev/stdout is a link to
    // /proc/self/fd/1. Who may look into that directory has the descriptor already.
    ::fchmod(ends[0], 0666);
    const int ours = stream == 0 ? 1 : 0;
    child_ends_[stream].reset(ends[1 - ours]);
    child[stream] = ends[1 - ours];
    sys::UniqueFd end(ends[ours]);
    if (stream == 0) {
      in_.Open(std::move(end), false);
    } else {
      (stream == 1 ? out_ : err_).Open(std::move(end), true);
    }
  }
  return {};
}

void Process::CloseChildEnds() {
  for (sys::UniqueFd& end : child_ends_) end.reset();
}

bool Process::Await(runtime::Launch launch, bool is_output_paused) {
  launch_ = std::move(launch);
  launch_.in_steps = true;
  ReadOutput(is_output_paused);
  return report_watch_.Start(launch_.report.get(), EPOLLIN) && pidfd_watch_.Start(launch_.pidfd.get(), EPOLLIN);
}

void Process::ReadOutput(bool is_paused) {
  is_output_paused_ = is_paused;
  if (is_paused) return;
  out_.Resume();
  err_.Resume();
}

void Process::OnReport(uint32_t /*events*/) {
  report_watch_.Stop();
  bool is_started = runtime::FinishLaunch(&launch_, &problem_);
  if (is_started && launch_.unfinished) {
    const int next = launch_.hooks.valid() ? launch_.hooks.get() : launch_.report.get();
    if (report_watch_.Start(next, EPOLLIN)) return;
    problem_ = {};
    problem_.step = "watch";
    problem_.message = "watch the container's process";
    is_started = false;
  }
  runtime::EndHooks(&launch_);
  launch_.report.reset();
  if (!is_started) {
    // Answered once it is reaped, so that its cgroup is empty for whoever cleans up.
    state_ = State::kFailed;
    SendSignal(SIGKILL);
    return;
  }
  Began();
}

void Process::Began() {
  state_ = State::kRunning;
  exit_.started_at_ns = is_reaped_ ? exit_.finished_at_ns : WallNs();
  OpenTerminal();
  OnStarted();
  if (is_reaped_) Settle();
}

void Process::OpenTerminal() {
  if (!has_terminal_ || !launch_.terminal.valid()) return;
  // Two descriptors of one terminal, so that each direction is watched by itself.
  sys::UniqueFd input(::fcntl(launch_.terminal.get(), F_DUPFD_CLOEXEC, 3));
  sys::UniqueFd output(::fcntl(launch_.terminal.get(), F_DUPFD_CLOEXEC, 3));
  if (input.valid() && has_stdin_) in_.Open(std::move(input), true);
  if (output.valid()) out_.Open(std::move(output), is_output_paused_);
  ApplySize();
}

bool Process::Call(std::unique_ptr<RuntimeCall> call, const char* command, const int stdio[3],
                   runtime::Problem* problem) {
  const auto started = call->Start(command, stdio);
  if (!started) {
    const char* const name = strerrorname_np(started.failure().error);
    problem->step = command;
    problem->syscall = started.failure().op;
    problem->errno_name = name != nullptr ? name : "";
    problem->message = "call the runtime: " + problem->syscall + ": " + problem->errno_name;
    return false;
  }
  call_ = std::move(call);
  return true;
}

void Process::TakeCallEnd(const sys::ExitStatus& status, const std::vector<sys::AnyExit>* strays) {
  strays_ = strays;
  const std::unique_ptr<RuntimeCall> call = std::move(call_);
  if (status.signal == 0 && status.code == 0) {
    OnCallDone(call.get(), nullptr);
  } else {
    const runtime::Problem problem = call->ToProblem(status);
    OnCallDone(call.get(), &problem);
  }
}

bool Process::Adopt(RuntimeCall* call, runtime::Problem* problem) {
  problem->step = call->command();
  if (has_terminal_) launch_.terminal = call->TakeTerminal();
  if (has_terminal_ && !launch_.terminal.valid()) {
    problem->message = "the runtime sent no terminal";
    return false;
  }
  const pid_t pid = call->ReadPid();
  problem->message = "the runtime left no process that can be found";
  if (pid <= 0) return false;
  launch_.pid = pid;
  const auto stray = std::find_if(strays_->rbegin(), strays_->rend(), [pid](const auto& exit) { return exit.pid == pid; });
  if (stray != strays_->rend()) {
    TakeExit(stray->status, stray->usage);
    return true;
  }
  auto pidfd = sys::pidfd_open(pid);
  if (!pidfd) return false;
  launch_.pidfd = std::move(*pidfd);
  return pidfd_watch_.Start(launch_.pidfd.get(), EPOLLIN);
}

void Process::CouldNotBegin(const runtime::Problem& problem) {
  in_.Close();
  state_ = State::kEnded;
  pidfd_watch_.Stop();
  OnStartFailed(problem);
}

void Process::OnPidfd(uint32_t /*events*/) {
  const auto status = [this](struct rusage* usage) { return sys::waitid_pidfd(launch_.pidfd.get(), WNOHANG, usage); };
  struct rusage usage {};
  auto exit = status(&usage);
  if (exit && !exit->exited) return;
  // ECHILD: somebody else has taken the status. The process is gone all the same.
  TakeExit(exit ? *exit : sys::ExitStatus{.exited = true, .code = 255}, usage);
}

bool Process::SendSignal(int signal) {
  return is_alive() && sys::pidfd_send_signal(launch_.pidfd.get(), signal).ok();
}

bool Process::Resize(unsigned columns, unsigned rows) {
  if (!has_terminal_) return false;
  columns_ = columns;
  rows_ = rows;
  ApplySize();
  return true;
}

void Process::ApplySize() {
  if (!launch_.terminal.valid() || (columns_ == 0 && rows_ == 0)) return;
  winsize size{};
  size.ws_col = static_cast<unsigned short>(columns_);
  size.ws_row = static_cast<unsigned short>(rows_);
  ::ioctl(launch_.terminal.get(), TIOCSWINSZ, &size);
}

void Process::TakeExit(const sys::ExitStatus& status, const struct rusage& usage) {
  if (is_reaped_) return;
  is_reaped_ = true;
  pidfd_watch_.Stop();
  exit_.finished_at_ns = WallNs();
  exit_.signal = status.signal;
  exit_.exit_code = status.signal != 0 ? 128 + status.signal : status.code;
  exit_.usage = usage;
  // The child is dead, so its report is complete, and its hooks are nobody's any more.
  report_watch_.Stop();
  runtime::EndHooks(&launch_);
  launch_.ended = true;
  if (state_ == State::kStarting && launch_.report.valid()) OnReport(0);
  launch_.pidfd.reset();
  // The call of another runtime that started it is still to say how that went.
  if (state_ != State::kStarting) Settle();
}

void Process::Settle() {
  if (state_ == State::kFailed) {
    in_.Close();
    state_ = State::kEnded;
    OnStartFailed(problem_);
    return;
  }
  state_ = State::kDraining;
  in_.Close();
  // The terminal's master must not outlive its use, or readers of the other side never end.
  launch_.terminal.reset();
  out_.NoteProcessEnd();
  err_.NoteProcessEnd();
  OnReaped();
  ContinueDrain();
}

void Process::ContinueDrain() {
  if (state_ != State::kDraining || !CanDrain()) return;
  if (!is_drain_over_ && !drain_alarm_.armed()) drain_alarm_.ArmIn(kDrainMs);
  EndIfSettled();
}

void Process::OnDrainDeadline() {
  is_drain_over_ = true;
  EndIfSettled();
}

void Process::OnOutput(Stream stream, std::string_view bytes) {
  OnBytes(stream, bytes);
  EndIfSettled();
}

void Process::OnOutputEnd(Stream /*stream*/) { EndIfSettled(); }

void Process::EndIfSettled() {
  if (state_ != State::kDraining || !CanDrain()) return;
  const bool are_closed = !out_.is_open() && !err_.is_open();
  const bool are_settled = is_drain_over_ && out_.is_settled() && err_.is_settled();
  if (!are_closed && !are_settled) return;
  state_ = State::kEnded;
  drain_alarm_.Disarm();
  out_.Close();
  err_.Close();
  OnEnded();
}

}  // namespace monitor
