#include "monitor/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "monitor/protocol.h"
#include "sys/wait_any.h"

namespace monitor {
namespace {

constexpr int64_t kLingerMs = 1000;

}  // namespace

Monitor::Monitor(MonitorSettings settings)
    : settings_(std::move(settings)), scratch_(&loop_), init_(&loop_, this), listener_watch_(&loop_, this), children_watch_(&loop_, this), linger_alarm_(&loop_, this) {}

sys::Result<void> Monitor::Open(int children, const volatile sig_atomic_t* terminate) {
  children_ = children;
  terminate_ = terminate;
  const auto opened = loop_.Open();
  if (!opened) return opened;
  if (!scratch_.Open()) return sys::FailedWithErrno("mmap");
  const auto listening = Listen();
  if (!listening) return listening;
  if (!listener_watch_.Start(listener_.get(), EPOLLIN) || !children_watch_.Start(children_, EPOLLIN)) {
    return sys::FailedWithErrno("epoll_ctl");
  }
  if (settings_.control >= 0) AddConnection(sys::UniqueFd(settings_.control));
  return {};
}

// The directory is the daemon's and 0700. A path longer than sun_path is reached through the
// descriptor of its directory (unix(7), "Pathname sockets").
sys::Result<void> Monitor::Listen() {
  const std::string& path = settings_.socket_path;
  const size_t slash = path.rfind('/');
  const std::string directory_path = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const sys::UniqueFd directory(::open(directory_path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return sys::FailedWithErrno("open");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string name = path;
  if (name.size() >= sizeof address.sun_path) {
    name = "/proc/self/fd/" + std::to_string(directory.get()) + "/" + path.substr(slash + 1);
    if (name.size() >= sizeof address.sun_path) return sys::Failure{"bind", ENAMETOOLONG};
  }
  memcpy(address.sun_path, name.c_str(), name.size() + 1);
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_.valid()) return sys::FailedWithErrno("socket");
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(mask);
  if (bound < 0) return sys::Failure{"bind", error};
  if (::listen(listener_.get(), SOMAXCONN) < 0) return sys::FailedWithErrno("listen");
  return {};
}

void Monitor::Run() {
  const auto is_client_waiting = [this] {
    return std::any_of(connections_.begin(), connections_.end(),
                       [](const auto& client) { return client->queued_bytes() > 0; });
  };
  while (!is_shutting_down_ || (linger_alarm_.armed() && is_client_waiting())) loop_.Turn();
  ::unlink(settings_.socket_path.c_str());
}

void Monitor::OnConnect(uint32_t /*events*/) {
  sys::UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  // Out of descriptors, or the client has gone again: the next turn tries anew.
  if (!socket.valid()) return;
  AddConnection(std::move(socket));
}

void Monitor::AddConnection(sys::UniqueFd socket) {
  auto connection = std::make_unique<Connection>(&loop_, this, std::move(socket), next_serial_++);
  if (!connection->Start()) return;
  Connection* const client = connection.get();
  const bool is_full = connections_.size() >= kMaxConnections;
  connections_.push_back(std::move(connection));
  if (is_full) {
    client->Refuse("TOO_MANY_CLIENTS", "the monitor serves no more clients at once");
    return;
  }
  SendHello(client);
}

void Monitor::SendHello(Connection* client) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  writer.StartObject();
  writer.Key("hello");
  writer.StartObject();
  writer.Key("protocol");
  writer.Uint(kProtocol);
  writer.Key("version");
  writer.String(kVersion);
  writer.Key("sandboxId");
  PutString(&writer, settings_.sandbox_id);
  writer.Key("pid");
  writer.Int(::getpid());
  // A client that came by the socketpair opens streams there.
  writer.Key("socketPath");
  PutString(&writer, settings_.socket_path);
  writer.Key("fds");
  writer.StartObject();
  for (const HeldFd& held : settings_.held) {
    writer.Key(held.name.c_str());
    writer.Int(held.number);
  }
  writer.EndObject();
  writer.EndObject();
  writer.EndObject();
  client->SendJson(std::string_view(text.GetString(), text.GetSize()));
}

void Monitor::OnHello(Connection* client, const JsonValue& frame) {
  Params members(&frame);
  Params hello(members.Object("hello"));
  const uint64_t protocol = hello.Unsigned("protocol", UINT32_MAX);
  const JsonValue* const stream = hello.OptionalObject("stream");
  if (!members.ok() || !hello.ok()) {
    client->Refuse("BAD_FRAME", "the first frame is not a hello");
  } else if (protocol != kProtocol) {
    client->Refuse("UNKNOWN_PROTOCOL", "this monitor speaks protocol 1 only");
  } else if (stream != nullptr) {
    OpenStream(client, *stream);
  } else {
    client->BecomeControl();
  }
}

void Monitor::OpenStream(Connection* client, const JsonValue& stream) {
  Params params(&stream);
  const std::string container_id = params.OptionalString("containerId");
  const std::string exec_id = params.OptionalString("execId");
  Container* const container = FindContainer(container_id);
  Exec* const exec = FindExec(exec_id);
  const Process* const process = container != nullptr ? static_cast<Process*>(container) : exec;
  if (process == nullptr) {
    client->Refuse(container_id.empty() ? "EXEC_NOT_FOUND" : "CONTAINER_NOT_FOUND", "there is no process of this id");
    return;
  }
  if (container == nullptr && (!exec->is_stream() || exec->has_client())) {
    client->Refuse("EXEC_NOT_ATTACHABLE", "the exec captures its output, or has had its client");
    return;
  }
  char text[64];
  const int size = snprintf(text, sizeof text, R"({"stream":{"terminal":%s,"stdin":%s}})",
                            process->has_terminal() ? "true" : "false", process->has_stdin() ? "true" : "false");
  client->SendJson(std::string_view(text, static_cast<size_t>(size)));
  client->BecomeStream(container != nullptr ? static_cast<StreamPeer*>(container) : exec);
  container != nullptr ? container->Attach(client) : exec->Attach(client);
}

void Monitor::OnConnectionClosed(Connection* client) {
  const auto found = std::find_if(connections_.begin(), connections_.end(),
                                  [client](const auto& connection) { return connection.get() == client; });
  if (found == connections_.end()) return;
  loop_.Bury(std::move(*found));
  connections_.erase(found);
}

// SIGCHLD: reaps our own processes and the orphans that came to us as a subreaper.
void Monitor::OnChildren(uint32_t /*events*/) {
  uint64_t count;
  static_cast<void>(!::read(children_, &count, sizeof count));
  for (;;) {
    auto exit = sys::waitid_any();
    if (!exit || exit->pid == 0) break;
    if (exit->pid == init_.pid()) init_.NoteExit();
    if (Process* const process = FindProcess(exit->pid)) {
      process->TakeExit(exit->status, exit->usage);
    } else if (Process* const caller = FindCaller(exit->pid)) {
      caller->TakeCallEnd(exit->status, &strays_);
    } else if (IsCalling()) {
      strays_.push_back(std::move(*exit));
    }
  }
  if (!IsCalling()) std::vector<sys::AnyExit>().swap(strays_);
  if (*terminate_ != 0 && !HasRunningContainer()) BeginShutdown();
}

Process* Monitor::FindProcess(pid_t pid) const {
  for (const auto& container : containers_) {
    if (container->is_alive() && container->pid() == pid) return container.get();
  }
  for (const auto& exec : execs_) {
    if (exec->is_alive() && exec->pid() == pid) return exec.get();
  }
  return nullptr;
}

Process* Monitor::FindCaller(pid_t pid) const {
  for (const auto& container : containers_) {
    if (container->call_pid() == pid) return container.get();
  }
  for (const auto& exec : execs_) {
    if (exec->call_pid() == pid) return exec.get();
  }
  return nullptr;
}

bool Monitor::IsCalling() const {
  const auto calls = [](const auto& process) { return process->call_pid() != 0; };
  return std::any_of(containers_.begin(), containers_.end(), calls) || std::any_of(execs_.begin(), execs_.end(), calls);
}

bool Monitor::HasRunningContainer() const {
  return std::any_of(containers_.begin(), containers_.end(), [](const auto& container) { return !container->is_ended(); });
}

void Monitor::BeginShutdown() {
  is_shutting_down_ = true;
  init_.End();
  // A client that does not read its answer must not hold the monitor.
  linger_alarm_.ArmIn(kLingerMs);
}

int Monitor::FindHeld(std::string_view name) const {
  for (const HeldFd& held : settings_.held) {
    if (held.name == name) return held.number;
  }
  return -1;
}

Container* Monitor::FindContainer(std::string_view id) const {
  const auto found =
      std::find_if(containers_.begin(), containers_.end(), [id](const auto& container) { return container->id() == id; });
  return found == containers_.end() ? nullptr : found->get();
}

Exec* Monitor::FindExec(std::string_view id) const {
  const auto found = std::find_if(execs_.begin(), execs_.end(),
                                  [id](const auto& exec) { return exec->id() == id && !exec->is_done(); });
  return found == execs_.end() ? nullptr : found->get();
}

void Monitor::BuryContainer(Container* container) {
  const auto found = std::find_if(containers_.begin(), containers_.end(),
                                  [container](const auto& other) { return other.get() == container; });
  if (found == containers_.end()) return;
  loop_.Bury(std::move(*found));
  containers_.erase(found);
}

void Monitor::OnContainerStarted(Container* container) { ReplyStarted(container); }

void Monitor::OnContainerFailed(Container* container, const runtime::Problem& problem) {
  int64_t request_id = 0;
  Connection* const client = TakePending(container, &request_id);
  if (client != nullptr) ReplyProblem(client, request_id, "START_FAILED", problem);
  BuryContainer(container);
}

void Monitor::OnContainerEnded(Container* container) {
  scratch_.TrimSoon();
  std::vector<Exec*> lingering;  // copied: one that is gone leaves the list
  for (const auto& exec : execs_) {
    if (exec->container_id() == container->id()) lingering.push_back(exec.get());
  }
  for (Exec* exec : lingering) exec->Recheck();
  const bool is_cgroup_removed = container->RemoveOwnCgroup();
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  writer.StartObject();
  writer.Key("event");
  writer.String("exit");
  writer.Key("containerId");
  PutString(&writer, container->id());
  writer.Key("exit");
  PutExitRecord(&writer, container->id(), container->exit_status());
  writer.Key("cgroupRemoved");
  writer.Bool(is_cgroup_removed);
  writer.EndObject();
  Broadcast(std::string_view(text.GetString(), text.GetSize()));
}

void Monitor::OnContainerOom(Container* container) {
  Broadcast(R"({"event":"oom","containerId":")" + container->id() + "\"}");
}

bool Monitor::HasLiveExecs(const Container* container) const {
  return std::any_of(execs_.begin(), execs_.end(), [container](const auto& exec) {
    return exec->container_id() == container->id() && exec->is_alive();
  });
}

void Monitor::OnExecStarted(Exec* exec) {
  if (exec->is_stream()) ReplyStarted(exec);
}

void Monitor::OnExecFailed(Exec* exec, const runtime::Problem& problem) {
  int64_t request_id = 0;
  Connection* const client = TakePending(exec, &request_id);
  if (client != nullptr) ReplyProblem(client, request_id, "EXEC_FAILED", problem);
  if (Container* const container = FindContainer(exec->container_id())) container->OnExecReaped();
}

void Monitor::OnExecReaped(Exec* exec) {
  if (exec->is_stream()) {
    char text[256];
    const int size = snprintf(text, sizeof text, R"({"event":"execExit","execId":"%s","exitCode":%d,"signal":%d})",
                              exec->id().c_str(), exec->exit_status().exit_code, exec->exit_status().signal);
    Broadcast(std::string_view(text, std::min(static_cast<size_t>(size), sizeof text - 1)));
  }
  if (Container* const container = FindContainer(exec->container_id())) container->OnExecReaped();
}

void Monitor::OnExecDone(Exec* exec) {
  // Again: what its start asked for may have come while it ran.
  scratch_.TrimSoon();
  if (!exec->is_stream()) ReplyCaptured(exec);
  exec->DropCaptured();
}

void Monitor::OnExecGone(Exec* exec) {
  const auto found =
      std::find_if(execs_.begin(), execs_.end(), [exec](const auto& other) { return other.get() == exec; });
  if (found == execs_.end()) return;
  loop_.Bury(std::move(*found));
  execs_.erase(found);
}

}  // namespace monitor
