// One container: its first process, log, attached clients, stop deadline and exit file.
//
// Another runtime's container has its rootfs mounted in the bundle for it, and is deleted there, and the
// rootfs unmounted, before its end is told.
//
// The process is followed as process.h draws it. The order at the end: exit file, kill of what is
// left in the cgroup, rest of the output into the log, then the event and the clients' status.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "monitor/connection.h"
#include "monitor/log_writer.h"
#include "monitor/process.h"

namespace monitor {

class Container;

class ContainerOwner {
 public:
  virtual ~ContainerOwner() = default;
  virtual void OnContainerStarted(Container* container) = 0;
  // To be forgotten: it never ran.
  virtual void OnContainerFailed(Container* container, const runtime::Problem& problem) = 0;
  virtual void OnContainerEnded(Container* container) = 0;
  virtual void OnContainerOom(Container* container) = 0;
  // Execs of the container whose processes are not reaped yet.
  virtual bool HasLiveExecs(const Container* container) const = 0;
};

struct ContainerRequest {
  std::string container_id;
  std::string exit_file;
  runtime::LaunchRequest launch;
  OtherRuntime runtime;  // not set: in-process
  LogSettings log;  // empty path: none
  bool has_terminal = false;
  bool has_stdin = false;
  bool closes_stdin_after_first = false;  // stdinOnce
};

class Container final : public Process, public StreamPeer {
 public:
  Container(Loop* loop, Scratch* scratch, ContainerOwner* owner, ContainerRequest request);

  // False: nothing was started, and `problem` says why.
  bool Begin(runtime::Problem* problem);

  const std::string& id() const { return request_.container_id; }
  const std::string& cgroup() const { return request_.launch.cgroup; }
  const std::string& bundle() const { return request_.launch.bundle; }
  const OtherRuntime& runtime() const { return request_.runtime; }

  // Sends `signal`, and kills the cgroup after `grace_ms`. A later call can only bring that forward.
  void Stop(int signal, int64_t grace_ms);
  // Kills every process of the container.
  void Kill();
  sys::Result<void> ReopenLog();
  bool has_log() const { return log_.is_open(); }
  // Of one that has ended: false where processes outlive it, or where only the cgroup tells that it ever ran.
  bool RemoveOwnCgroup();

  void Attach(Connection* client);
  // An exec has ended, which may have been waited for.
  void OnExecReaped() { ContinueDrain(); }

  void OnStreamInput(Connection* client, std::string_view bytes) override;
  void OnStreamInputEnd(Connection* client) override;
  void OnStreamResize(unsigned columns, unsigned rows) override { Resize(columns, rows); }
  bool IsInputCongested() const override { return in_.IsCongested(); }
  bool DiesWithClient() const override { return false; }
  void OnStreamFlushed(Connection* /*client*/) override {}
  void OnStreamClosed(Connection* client) override;

 private:
  void OnStarted() override;
  void OnStartFailed(const runtime::Problem& problem) override;
  void OnBytes(Stream stream, std::string_view bytes) override;
  void OnReaped() override;
  bool CanDrain() const override {
    return (!request_.runtime.is_set() || is_deleted_) && (!owner_->HasLiveExecs(this) || is_exec_wait_over_);
  }
  void OnEnded() override;
  void OnInputDrained() override;
  void OnCallDone(RuntimeCall* call, const runtime::Problem* problem) override;

  bool BeginByOther(runtime::Problem* problem);
  void FailOther(const runtime::Problem& problem);
  void Delete();
  void OnDeleted();
  void OnDeleteDeadline() { KillCall(); }
  void OnOomEvent(uint32_t events);
  bool TakeOomKills();
  void OnKillDeadline();
  void OnExecWaitDeadline();
  void OnRetry();
  void WriteExit();
  void EndStdin();

  Loop* const loop_;
  Scratch* const scratch_;
  ContainerOwner* const owner_;
  ContainerRequest request_;
  LogWriter log_;
  std::vector<Connection*> clients_;
  sys::UniqueFd oom_file_;
  uint64_t oom_kills_ = 0;
  bool is_exit_written_ = false;
  bool is_exec_wait_over_ = false;
  bool has_rootfs_ = false;
  bool is_deleted_ = false;
  std::unique_ptr<runtime::Problem> start_problem_;
  Watch<Container, &Container::OnOomEvent> oom_watch_;
  Alarm<Container, &Container::OnKillDeadline> kill_alarm_;
  Alarm<Container, &Container::OnExecWaitDeadline> exec_wait_alarm_;
  Alarm<Container, &Container::OnDeleteDeadline> delete_alarm_;
  Alarm<Container, &Container::OnRetry> retry_alarm_;  // of the log and of the exit file
};

}  // namespace monitor
