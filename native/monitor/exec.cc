#include "monitor/exec.h"

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

constexpr int64_t kClientDeadlineMs = 30'000;
// After a timeout's kill: how long the process may take to be reaped (uninterruptible sleep)
// before the answer goes out without it.
constexpr int64_t kReapDeadlineMs = 500;
// More than this waiting for the client: the pipes are not read.
constexpr size_t kHighWaterBytes = 128 * 1024;

}  // namespace

Exec::Exec(Loop* loop, Scratch* scratch, ExecOwner* owner, ExecSettings settings)
    : Process(loop, scratch),
      owner_(owner),
      settings_(std::move(settings)),
      events_watch_(loop, this),
      timeout_alarm_(loop, this),
      abandon_alarm_(loop, this) {}

Exec::~Exec() = default;

bool Exec::Begin(runtime::Problem* problem) {
  const auto fail = [problem](const char* step, const char* what, const sys::Failure& failure) {
    const char* const name = strerrorname_np(failure.error);
    problem->step = step;
    problem->syscall = failure.op;
    problem->errno_name = name != nullptr ? name : "";
    problem->error = failure.error;
    problem->message = std::string(what) + ": " + problem->syscall + ": " + problem->errno_name;
    return false;
  };
  const auto made = MakeCgroup(settings_.cgroup);
  if (!made) return fail("cgroup", ("make cgroup \"" + settings_.cgroup + "\"").c_str(), made.failure());
  has_cgroup_ = true;
  settings_.launch.cgroup = settings_.cgroup;
  const auto stdio = OpenStdio(settings_.has_terminal, settings_.has_stdin, settings_.launch.stdio);
  runtime::Launch launch;
  const bool is_by_other = settings_.runtime.is_set();
  bool is_started = stdio.ok();
  if (!stdio.ok()) fail("stdio", "make pipes", stdio.failure());
  if (is_started && is_by_other) is_started = BeginByOther(problem);
  if (is_started && !is_by_other) is_started = runtime::StartExec(settings_.launch, &launch, problem);
  CloseChildEnds();
  settings_.launch = {};
  if (!is_started) {
    static_cast<void>(RemoveCgroup(settings_.cgroup).ok());
    return false;
  }
  if (is_by_other) {
    ReadOutput(settings_.is_stream);
  } else if (!Await(std::move(launch), settings_.is_stream)) {
    Kill();
    return fail("watch", "watch the exec's process", sys::FailedWithErrno("epoll_ctl"));
  }
  if (settings_.timeout_ms > 0) timeout_alarm_.ArmIn(settings_.timeout_ms);
  return true;
}

// The runtime moves the process into the exec's cgroup, which it finds below the container's.
bool Exec::BeginByOther(runtime::Problem* problem) {
  auto call = std::make_unique<RuntimeCall>(&settings_.runtime);
  call->Add("--detach");
  call->Add("--cgroup");
  call->Add(settings_.cgroup.substr(settings_.cgroup.rfind('/') + 1));
  call->AddPidFile();
  auto written = call->AddProcess(settings_.launch.process_json);
  if (written && settings_.has_terminal) written = call->AddConsoleSocket();
  if (!written) {
    problem->step = "stdio";
    problem->message = std::string("prepare the runtime's call: ") + written.failure().op;
    return false;
  }
  call->Add(settings_.container_id);
  return Call(std::move(call), "exec", settings_.launch.stdio, problem);
}

void Exec::OnCallDone(RuntimeCall* call, const runtime::Problem* problem) {
  runtime::Problem own;
  if (problem != nullptr) own = *problem;
  if (problem != nullptr || !Adopt(call, &own)) {
    CouldNotBegin(own);
  } else {
    Began();
  }
}

void Exec::OnStarted() {
  if (settings_.is_stream) abandon_alarm_.ArmIn(kClientDeadlineMs);
  owner_->OnExecStarted(this);
}

void Exec::OnStartFailed(const runtime::Problem& problem) {
  timeout_alarm_.Disarm();
  is_done_ = true;
  RemoveCgroupOrWait();
  owner_->OnExecFailed(this, problem);
}

void Exec::Kill() {
  // The first process may not be in the cgroup where cgroup.kill is missing (before Linux 5.14).
  if (has_cgroup_) static_cast<void>(KillCgroup(settings_.cgroup).ok());
  KillCall();
  SendSignal(SIGKILL);
}

void Exec::OnTimeout() {
  if (has_timed_out_) {
    // Killed, and still not reaped: whoever waits is told, the process is reaped when it can be.
    if (Connection* const client = std::exchange(client_, nullptr)) client->FinishStream(128 + SIGKILL);
    Done();
    return;
  }
  has_timed_out_ = true;
  Kill();
  timeout_alarm_.ArmIn(kReapDeadlineMs);
}

void Exec::OnBytes(Stream stream, std::string_view bytes) {
  if (!settings_.is_stream) {
    std::string* const text = stream == Stream::kStdout ? &stdout_ : &stderr_;
    const size_t room = settings_.limit_bytes - std::min(settings_.limit_bytes, text->size());
    is_truncated_ |= bytes.size() > room;
    if (!is_done_) text->append(bytes.substr(0, room));
    return;
  }
  if (client_ == nullptr) return;
  client_->SendChannel(static_cast<uint8_t>(stream), bytes);
  if (client_ != nullptr && client_->queued_bytes() > kHighWaterBytes) {
    out_.Pause();
    err_.Pause();
  }
}

void Exec::Attach(Connection* client) {
  client_ = client;
  had_client_ = true;
  abandon_alarm_.Disarm();
  out_.Resume();
  err_.Resume();
  ContinueDrain();
}

void Exec::OnStreamFlushed(Connection* /*client*/) {
  out_.Resume();
  err_.Resume();
}

void Exec::OnStreamClosed(Connection* /*client*/) {
  client_ = nullptr;
  Abandon();
}

void Exec::OnAbandoned() { Abandon(); }

// Nobody will read the output any more: what runs is killed, what is in the pipes is read away.
void Exec::Abandon() {
  is_abandoned_ = true;
  Kill();
  out_.Resume();
  err_.Resume();
  ContinueDrain();
}

void Exec::OnInputDrained() {
  if (client_ != nullptr) client_->ResumeReading();
}

void Exec::OnReaped() {
  timeout_alarm_.Disarm();
  owner_->OnExecReaped(this);
}

void Exec::OnEnded() {
  // Before anybody is told, so that an exec that has been answered has left nothing.
  RemoveCgroupOrWait();
  if (Connection* const client = std::exchange(client_, nullptr)) client->FinishStream(exit_.exit_code);
  Done();
}

void Exec::Done() {
  if (is_done_) return;
  is_done_ = true;
  abandon_alarm_.Disarm();
  owner_->OnExecDone(this);
}

void Exec::DropCaptured() {
  std::string().swap(stdout_);
  std::string().swap(stderr_);
}

// Background processes of the exec may live on. The kernel tells through cgroup.events when the
// last one is gone (cgroups(7), "populated"); notifications may come some 10 ms late.
void Exec::RemoveCgroupOrWait() {
  if (!events_file_.valid() && !RemoveCgroup(settings_.cgroup).ok()) {
    events_file_.reset(::open((settings_.cgroup + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
    if (events_file_.valid()) events_watch_.Start(events_file_.get(), EPOLLPRI);
    // It may have become empty in between.
    OnCgroupEvent(0);
    return;
  }
  if (is_gone_) return;
  is_gone_ = true;
  owner_->OnExecGone(this);
}

void Exec::Recheck() {
  if (events_file_.valid()) OnCgroupEvent(0);
}

void Exec::OnCgroupEvent(uint32_t /*events*/) {
  char text[128];
  if (events_file_.valid()) static_cast<void>(::pread(events_file_.get(), text, sizeof text, 0));
  if (is_gone_ || (events_file_.valid() && !RemoveCgroup(settings_.cgroup).ok())) return;
  events_watch_.Stop();
  is_gone_ = true;
  owner_->OnExecGone(this);
}

}  // namespace monitor
