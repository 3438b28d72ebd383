#include "monitor/container.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "monitor/cgroup.h"
#include "monitor/clock.h"

namespace monitor {
namespace {

constexpr int64_t kRetryMs = 1000;
constexpr int64_t kExecWaitMs = 1000;

// A failure of this process itself, in the runtime's shape.
runtime::Problem ToProblem(const char* step, const std::string& what, const sys::Failure& failure) {
  runtime::Problem problem;
  const char* const name = strerrorname_np(failure.error);
  problem.step = step;
  problem.syscall = failure.op;
  problem.errno_name = name != nullptr ? name : "";
  problem.error = failure.error;
  problem.message = what + ": " + problem.syscall + ": " + problem.errno_name;
  return problem;
}

}  // namespace

Container::Container(Loop* loop, Scratch* scratch, ContainerOwner* owner, ContainerRequest request)
    : Process(loop, scratch),
      loop_(loop),
      scratch_(scratch),
      owner_(owner),
      request_(std::move(request)),
      oom_watch_(loop, this),
      kill_alarm_(loop, this),
      exec_wait_alarm_(loop, this),
      delete_alarm_(loop, this),
      retry_alarm_(loop, this) {}

bool Container::Begin(runtime::Problem* problem) {
  if (!request_.log.path.empty()) {
    const std::string path = request_.log.path;
    const auto opened = log_.Open(std::move(request_.log), scratch_->log_buffer());
    if (!opened) {
      *problem = ToProblem("log", "open log \"" + path + "\"", opened.failure());
      return false;
    }
  }
  const auto stdio = OpenStdio(request_.has_terminal, request_.has_stdin, request_.launch.stdio);
  if (!stdio) {
    *problem = ToProblem("stdio", "make pipes", stdio.failure());
    return false;
  }
  // The counters count from the cgroup's birth; the watch wakes on every change of the file.
  oom_kills_ = ReadOomKills(cgroup());
  oom_file_.reset(::open((cgroup() + "/memory.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (oom_file_.valid()) {
    TakeOomKills();
    oom_watch_.Start(oom_file_.get(), EPOLLPRI);
  }
  if (request_.runtime.is_set()) return BeginByOther(problem);
  runtime::Launch launch;
  if (!runtime::StartContainer(request_.launch, &launch, problem)) return false;
  CloseChildEnds();
  // What the request held is not needed again: the bundle names everything.
  request_.launch.overlay.reset();
  if (!Await(std::move(launch), false)) {
    *problem = ToProblem("watch", "watch the container's process", sys::FailedWithErrno("epoll_ctl"));
    Kill();
    return false;
  }
  return true;
}

void Container::OnStarted() { owner_->OnContainerStarted(this); }

void Container::OnStartFailed(const runtime::Problem& problem) {
  kill_alarm_.Disarm();
  for (Connection* client : std::exchange(clients_, {})) client->FailStream("START_FAILED", "the container did not start");
  owner_->OnContainerFailed(this, problem);
}

void Container::Stop(int signal, int64_t grace_ms) {
  if (!is_alive()) return;
  if (grace_ms == 0) {
    Kill();
    return;
  }
  SendSignal(signal);
  const int64_t deadline_ms = MonotonicMs() + grace_ms;
  if (!kill_alarm_.armed() || deadline_ms < kill_alarm_.deadline_ms()) kill_alarm_.ArmAt(deadline_ms);
}

void Container::OnKillDeadline() { Kill(); }

void Container::Kill() {
  // cgroup.kill needs Linux 5.14 and a cgroup of the container's own; the first process takes
  // its pid namespace with it in any case.
  if (!cgroup().empty()) static_cast<void>(KillCgroup(cgroup()).ok());
  // A create or start that hangs.
  if (is_starting()) KillCall();
  SendSignal(SIGKILL);
}

sys::Result<void> Container::ReopenLog() { return log_.Reopen(); }

void Container::OnBytes(Stream stream, std::string_view bytes) {
  log_.Append(stream, bytes.data(), bytes.size(), WallNs());
  if (log_.is_dropping() && !retry_alarm_.armed()) retry_alarm_.ArmIn(kRetryMs);
  if (clients_.empty()) return;
  for (Connection* client : std::vector<Connection*>(clients_)) {
    // The log never waits for a client: one that does not keep up is told so and let go.
    if (client->queued_bytes() > Connection::kMaxStreamQueueBytes) {
      std::erase(clients_, client);
      client->FailStream("STREAM_TOO_SLOW", "more than 1 MiB of output was waiting for this client");
      if (clients_.empty() && request_.closes_stdin_after_first) EndStdin();
      continue;
    }
    client->SendChannel(static_cast<uint8_t>(stream), bytes);
  }
}

bool Container::TakeOomKills() {
  char text[512];
  // Reading from the start tells the kernel that this change has been seen (kernfs).
  if (oom_file_.valid()) static_cast<void>(::pread(oom_file_.get(), text, sizeof text, 0));
  const uint64_t kills = ReadOomKills(cgroup());
  const bool has_more = kills > oom_kills_;
  oom_kills_ = std::max(kills, oom_kills_);
  exit_.oom_killed |= has_more;
  return has_more;
}

void Container::OnOomEvent(uint32_t /*events*/) {
  if (TakeOomKills()) owner_->OnContainerOom(this);
}

void Container::OnReaped() {
  kill_alarm_.Disarm();
  oom_watch_.Stop();
  const bool has_new_kills = TakeOomKills();
  oom_file_.reset();
  if (has_new_kills) owner_->OnContainerOom(this);
  // A container whose children were killed for memory and that ended for another reason was not.
  exit_.oom_killed = exit_.oom_killed && exit_.exit_code == 128 + SIGKILL;
  WriteExit();
  // A container ends with its first process. Its pid namespace does the same; this is for those
  // that share one, and for its execs.
  if (!cgroup().empty()) static_cast<void>(KillCgroup(cgroup()).ok());
  if (request_.runtime.is_set()) Delete();
  if (!CanDrain()) exec_wait_alarm_.ArmIn(kExecWaitMs);
}

void Container::OnExecWaitDeadline() {
  is_exec_wait_over_ = true;
  ContinueDrain();
}

void Container::WriteExit() {
  is_exit_written_ = WriteExitFile(request_.exit_file, id(), exit_).ok();
  // A full disk: tried until it is written or the container is forgotten.
  if (!is_exit_written_) retry_alarm_.ArmIn(kRetryMs);
}

void Container::OnRetry() {
  if (is_reaped() && !is_exit_written_) WriteExit();
  log_.Retry(WallNs());
  if (log_.is_dropping()) retry_alarm_.ArmIn(kRetryMs);
}

void Container::OnEnded() {
  const int64_t now_ns = WallNs();
  log_.End(Stream::kStdout, now_ns);
  log_.End(Stream::kStderr, now_ns);
  log_.Retry(now_ns);
  log_ = LogWriter();
  exec_wait_alarm_.Disarm();
  for (Connection* client : std::exchange(clients_, {})) client->FinishStream(exit_.exit_code);
  owner_->OnContainerEnded(this);
}

bool Container::RemoveOwnCgroup() {
  return is_exit_written_ && !cgroup().empty() && RemoveCgroup(cgroup()).ok();
}

void Container::Attach(Connection* client) {
  if (is_ended()) {
    client->FinishStream(exit_.exit_code);
    return;
  }
  clients_.push_back(client);
}

void Container::OnStreamInput(Connection* /*client*/, std::string_view bytes) { in_.Write(bytes); }

void Container::OnStreamInputEnd(Connection* /*client*/) {
  if (request_.closes_stdin_after_first) EndStdin();
}

void Container::EndStdin() { in_.End(); }

void Container::OnStreamClosed(Connection* client) {
  std::erase(clients_, client);
  if (request_.closes_stdin_after_first) EndStdin();
}

void Container::OnInputDrained() {
  for (Connection* client : std::vector<Connection*>(clients_)) client->ResumeReading();
}

}  // namespace monitor
