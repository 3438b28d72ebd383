// The state of one sandbox's monitor: its clients, containers and execs, and what happens between them.
//
// Owns everything and is called back by everything; the parts do not know each other. Requests are
// decoded in methods.cc. Nothing here blocks: not on clients, not on logs, not on processes.
#pragma once

#include <signal.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "monitor/connection.h"
#include "monitor/container.h"
#include "monitor/exec.h"
#include "monitor/init_process.h"
#include "monitor/loop.h"
#include "monitor/stdio.h"

namespace monitor {

// A descriptor that the monitor only holds, so that /proc/<monitor>/fd/<number> names it.
struct HeldFd {
  std::string name;  // net, ipc, uts, shm, user
  int number;
};

struct MonitorSettings {
  std::string sandbox_id;
  std::string socket_path;
  int control = -1;  // the first client, or -1
  std::vector<HeldFd> held;
  int device_policy = -1;  // of ShareDevicePolicy, kept open; or -1
};

class Monitor final : public ConnectionOwner, public ContainerOwner, public ExecOwner, public InitOwner {
 public:
  explicit Monitor(MonitorSettings settings);

  // Opens the socket and takes the first client.
  //
  // children   eventfd that the handlers of SIGCHLD and SIGTERM add to
  // terminate  not 0 after a SIGTERM, which ends a monitor without running containers
  sys::Result<void> Open(int children, const volatile sig_atomic_t* terminate);
  // Until a shutdown was asked for and its answer is sent.
  void Run();

 private:
  struct PendingReply {
    const void* process;
    uint64_t client_serial;
    int64_t request_id;
  };
  struct Request {
    Connection* client;
    int64_t id;
    const JsonValue* params;
  };
  using Method = void (Monitor::*)(const Request&);

  void OnHello(Connection* client, const JsonValue& hello) override;
  void OnRequest(Connection* client, const JsonValue& request) override;
  void OnConnectionClosed(Connection* client) override;
  char* read_buffer() override { return scratch_.read_buffer(); }

  void OnContainerStarted(Container* container) override;
  void OnContainerFailed(Container* container, const runtime::Problem& problem) override;
  void OnContainerEnded(Container* container) override;
  void OnContainerOom(Container* container) override;
  bool HasLiveExecs(const Container* container) const override;

  void OnExecStarted(Exec* exec) override;
  void OnExecFailed(Exec* exec, const runtime::Problem& problem) override;
  void OnExecReaped(Exec* exec) override;
  void OnExecDone(Exec* exec) override;
  void OnExecGone(Exec* exec) override;

  void OnInitReady(int error) override;

  sys::Result<void> Listen();
  void OnConnect(uint32_t events);
  void OnChildren(uint32_t events);
  void AddConnection(sys::UniqueFd socket);
  void SendHello(Connection* client);
  void OpenStream(Connection* client, const JsonValue& stream);
  Container* FindContainer(std::string_view id) const;
  int FindHeld(std::string_view name) const;  // -1: not held
  Exec* FindExec(std::string_view id) const;
  Process* FindProcess(pid_t pid) const;
  Process* FindCaller(pid_t pid) const;
  bool IsCalling() const;
  bool HasRunningContainer() const;
  void BuryContainer(Container* container);
  void BeginShutdown();
  void OnLingerDeadline() {}

  // methods.cc
  void Start(const Request& request);
  void StartExec(const Request& request);
  void Signal(const Request& request);
  void Stop(const Request& request);
  void Kill(const Request& request);
  void KillExec(const Request& request);
  void StartInit(const Request& request);
  void List(const Request& request);
  void Resize(const Request& request);
  void ReopenLog(const Request& request);
  void Forget(const Request& request);
  void Shutdown(const Request& request);
  Container* NeedContainer(const Request& request, Params* params);

  // replies.cc
  void ReplyEmpty(const Request& request);
  void ReplyError(const Request& request, const char* code, const std::string& message);
  void ReplyProblem(Connection* client, int64_t id, const char* code, const runtime::Problem& problem);
  void ReplyStarted(const Process* process);
  void ReplyCaptured(const Exec* exec);
  // `process`: a Process, or the InitProcess.
  Connection* TakePending(const void* process, int64_t* request_id);
  void Broadcast(std::string_view json);

  MonitorSettings settings_;
  Loop loop_;
  Scratch scratch_;
  sys::UniqueFd listener_;
  int children_ = -1;
  const volatile sig_atomic_t* terminate_ = nullptr;
  bool is_shutting_down_ = false;
  uint64_t next_serial_ = 1;
  uint64_t next_exec_number_ = 1;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Container>> containers_;
  std::vector<std::unique_ptr<Exec>> execs_;
  std::vector<PendingReply> pending_;
  InitProcess init_;
  // Of another runtime's processes one may end, and be reaped, before the call that started it has.
  std::vector<sys::AnyExit> strays_;
  Watch<Monitor, &Monitor::OnConnect> listener_watch_;
  Watch<Monitor, &Monitor::OnChildren> children_watch_;
  Alarm<Monitor, &Monitor::OnLingerDeadline> linger_alarm_;
};

}  // namespace monitor
