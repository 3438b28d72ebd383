// One exec: a further process in a running container, in a cgroup of its own below the container's.
//
// Capture mode gathers the output for one answer. Stream mode hands it to one client, and reads
// the pipes only while that client keeps up; the exec ends with its client. A timeout, or a client
// that goes, kills the whole cgroup; a normal end leaves background processes alone, and the
// cgroup is removed once they are gone too.
#pragma once

#include <string>
#include <string_view>

#include "monitor/connection.h"
#include "monitor/process.h"

namespace monitor {

class Exec;

class ExecOwner {
 public:
  virtual ~ExecOwner() = default;
  virtual void OnExecStarted(Exec* exec) = 0;
  virtual void OnExecFailed(Exec* exec, const runtime::Problem& problem) = 0;
  virtual void OnExecReaped(Exec* exec) = 0;
  // Nothing is left to send to anybody: captured output can be answered.
  virtual void OnExecDone(Exec* exec) = 0;
  // The cgroup is gone as well: it can be deleted.
  virtual void OnExecGone(Exec* exec) = 0;
};

struct ExecSettings {
  std::string exec_id;
  std::string container_id;
  std::string cgroup;  // absolute; made by Begin, removed at the end
  runtime::ExecRequest launch;
  OtherRuntime runtime;  // the container's; not set: in-process
  bool has_terminal = false;
  bool has_stdin = false;
  bool is_stream = false;
  int64_t timeout_ms = 0;   // 0: none
  size_t limit_bytes = 0;   // of each captured stream
};

class Exec final : public Process, public StreamPeer {
 public:
  Exec(Loop* loop, Scratch* scratch, ExecOwner* owner, ExecSettings settings);
  ~Exec() override;

  bool Begin(runtime::Problem* problem);

  const std::string& id() const { return settings_.exec_id; }
  const std::string& container_id() const { return settings_.container_id; }
  bool is_stream() const { return settings_.is_stream; }
  bool has_client() const { return had_client_; }
  bool is_done() const { return is_done_; }
  bool has_timed_out() const { return has_timed_out_; }
  bool is_truncated() const { return is_truncated_; }
  const std::string& captured(Stream stream) const { return stream == Stream::kStdout ? stdout_ : stderr_; }
  void DropCaptured();

  // One client in the whole life of a stream exec.
  void Attach(Connection* client);
  // Everything that the exec started.
  void Kill();
  // The container has ended: a cgroup that was waited for may be empty by now.
  void Recheck();

  void OnStreamInput(Connection* /*client*/, std::string_view bytes) override { in_.Write(bytes); }
  void OnStreamInputEnd(Connection* /*client*/) override { in_.End(); }
  void OnStreamResize(unsigned columns, unsigned rows) override { Resize(columns, rows); }
  bool IsInputCongested() const override { return in_.IsCongested(); }
  bool DiesWithClient() const override { return true; }
  void OnStreamFlushed(Connection* client) override;
  void OnStreamClosed(Connection* client) override;

 private:
  void OnStarted() override;
  void OnStartFailed(const runtime::Problem& problem) override;
  void OnBytes(Stream stream, std::string_view bytes) override;
  void OnReaped() override;
  bool CanDrain() const override { return !settings_.is_stream || had_client_ || is_abandoned_; }
  void OnEnded() override;
  void OnInputDrained() override;
  void OnCallDone(RuntimeCall* call, const runtime::Problem* problem) override;

  bool BeginByOther(runtime::Problem* problem);
  void OnTimeout();
  void OnAbandoned();
  void OnCgroupEvent(uint32_t events);
  void Abandon();
  void Done();
  void RemoveCgroupOrWait();

  ExecOwner* const owner_;
  ExecSettings settings_;
  Connection* client_ = nullptr;
  bool had_client_ = false;
  bool is_abandoned_ = false;
  bool has_timed_out_ = false;
  bool is_truncated_ = false;
  bool is_done_ = false;
  bool has_cgroup_ = false;
  bool is_gone_ = false;
  std::string stdout_, stderr_;
  sys::UniqueFd events_file_;
  Watch<Exec, &Exec::OnCgroupEvent> events_watch_;
  Alarm<Exec, &Exec::OnTimeout> timeout_alarm_;
  Alarm<Exec, &Exec::OnAbandoned> abandon_alarm_;
};

}  // namespace monitor
