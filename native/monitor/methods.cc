// The requests of control clients: what each reads, checks and does.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "monitor/monitor.h"
#include "monitor/protocol.h"
#include "sys/files.h"

namespace monitor {
namespace {

constexpr size_t kMaxLowers = 500;  // overlayfs refuses more
constexpr size_t kMaxRuntimeArgs = 64;
constexpr size_t kMaxConfigBytes = 8 * 1024 * 1024;
constexpr int64_t kMaxRequestId = 1ll << 53;  // what JavaScript counts exactly

// Ids stand in JSON and in names of files without being quoted.
bool IsId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

bool IsAbsolute(const std::string& path) { return !path.empty() && path[0] == '/'; }

// Reads the `start` parameters. False with the name of the wrong one in *wrong.
bool ReadStart(const JsonValue* object, ContainerRequest* request, std::string* wrong) {
  Params params(object);
  request->container_id = params.String("containerId");
  request->exit_file = params.String("exitFile");
  request->launch.id = request->container_id;
  request->launch.bundle = params.String("bundlePath");
  request->launch.cgroup = params.String("cgroup");
  request->log.path = params.OptionalString("logPath");
  request->log.max_bytes = params.Unsigned("logMaxBytes", UINT64_MAX);
  request->log.max_files = static_cast<unsigned>(params.Unsigned("logMaxFiles", 1000));
  request->has_terminal = params.Boolean("terminal");
  request->has_stdin = params.Boolean("stdin");
  request->closes_stdin_after_first = params.Boolean("stdinOnce");
  if (const JsonValue* const value = params.OptionalObject("runtimeHandler")) {
    Params handler(value);
    request->runtime.path = handler.String("path");
    request->runtime.args = handler.Strings("args", kMaxRuntimeArgs);
    request->runtime.state_dir = handler.String("stateDir");
    if (!handler.ok() || !IsAbsolute(request->runtime.path) || !IsAbsolute(request->runtime.state_dir)) {
      *wrong = "runtimeHandler";
      return false;
    }
  }
  if (const JsonValue* const value = params.OptionalObject("overlay")) {
    Params overlay(value);
    runtime::OverlayRoot root;
    root.lower = overlay.Strings("lower", kMaxLowers);
    root.upper = overlay.String("upper");
    root.work = overlay.String("work");
    root.is_volatile = overlay.Boolean("volatile");
    root.is_idmapped = overlay.Boolean("idmapped");
    if (!overlay.ok()) {
      *wrong = "overlay." + overlay.wrong();
      return false;
    }
    request->launch.overlay = std::move(root);
  }
  *wrong = params.wrong();
  if (!IsId(request->container_id)) *wrong = "containerId";
  if (!IsAbsolute(request->exit_file)) *wrong = "exitFile";
  if (!IsAbsolute(request->launch.bundle)) *wrong = "bundlePath";
  if (!IsAbsolute(request->launch.cgroup)) *wrong = "cgroup";
  if (!request->log.path.empty() && !IsAbsolute(request->log.path)) *wrong = "logPath";
  return wrong->empty();
}

bool ReadExec(const JsonValue* object, ExecSettings* settings, std::string* wrong) {
  Params params(object);
  settings->exec_id = params.String("execId");
  settings->container_id = params.String("containerId");
  const std::string mode = params.String("mode");
  settings->cgroup = params.String("cgroup");
  settings->is_stream = mode == "stream";
  settings->has_stdin = params.Boolean("stdin") && settings->is_stream;
  settings->timeout_ms = static_cast<int64_t>(params.Unsigned("timeoutMs", kMaxDurationMs));
  if (!settings->is_stream) settings->limit_bytes = params.Unsigned("limitBytes", kMaxCaptureBytes);
  if (const JsonValue* const process = params.Object("process")) {
    Params members(process);
    settings->has_terminal = members.Boolean("terminal");
    settings->launch.process_json = ToJson(*process);
  }
  *wrong = params.wrong();
  if (!IsId(settings->exec_id)) *wrong = "execId";
  if (!IsAbsolute(settings->cgroup)) *wrong = "cgroup";
  if (mode != "stream" && mode != "capture") *wrong = "mode";
  return wrong->empty();
}

}  // namespace

void Monitor::OnRequest(Connection* client, const JsonValue& frame) {
  static constexpr struct {
    const char* name;
    Method method;
  } kMethods[] = {
      {"start", &Monitor::Start},           {"exec", &Monitor::StartExec}, {"signal", &Monitor::Signal},
      {"stop", &Monitor::Stop},             {"kill", &Monitor::Kill},      {"killExec", &Monitor::KillExec},
      {"startInit", &Monitor::StartInit},   {"list", &Monitor::List},
      {"resize", &Monitor::Resize},         {"reopenLog", &Monitor::ReopenLog},
      {"forget", &Monitor::Forget},         {"shutdown", &Monitor::Shutdown},
  };
  Params members(&frame);
  const auto id = static_cast<int64_t>(members.Unsigned("id", kMaxRequestId));
  const std::string name = members.String("method", 64);
  const JsonValue* const params = members.OptionalObject("params");
  if (!members.ok()) {
    client->Refuse("BAD_FRAME", "a request has no " + members.wrong());
    return;
  }
  const Request request{client, id, params};
  for (const auto& method : kMethods) {
    if (name == method.name) {
      (this->*method.method)(request);
      return;
    }
  }
  ReplyError(request, "UNKNOWN_METHOD", "there is no method \"" + name + "\"");
}

void Monitor::Start(const Request& request) {
  ContainerRequest asked;
  std::string wrong;
  if (!ReadStart(request.params, &asked, &wrong)) {
    ReplyError(request, "BAD_REQUEST", "start: parameter \"" + wrong + "\" is missing or wrong");
    return;
  }
  if (FindContainer(asked.container_id) != nullptr) {
    ReplyError(request, "CONTAINER_EXISTS", "start: the container has been started before");
    return;
  }
  scratch_.TrimSoon();
  auto container = std::make_unique<Container>(&loop_, &scratch_, this, std::move(asked));
  runtime::Problem problem;
  if (!container->Begin(&problem)) {
    ReplyProblem(request.client, request.id, "START_FAILED", problem);
    loop_.Bury(std::move(container));
    return;
  }
  pending_.push_back({container.get(), request.client->serial(), request.id});
  containers_.push_back(std::move(container));
}

void Monitor::StartExec(const Request& request) {
  ExecSettings settings;
  std::string wrong;
  if (!ReadExec(request.params, &settings, &wrong)) {
    ReplyError(request, "BAD_REQUEST", "exec: parameter \"" + wrong + "\" is missing or wrong");
    return;
  }
  const Container* const container = FindContainer(settings.container_id);
  if (container == nullptr || !container->is_running()) {
    ReplyError(request, container == nullptr ? "CONTAINER_NOT_FOUND" : "CONTAINER_NOT_RUNNING",
               "exec: the container does not run");
    return;
  }
  if (std::any_of(execs_.begin(), execs_.end(), [&](const auto& exec) { return exec->id() == settings.exec_id; })) {
    ReplyError(request, "EXEC_EXISTS", "exec: the id has been used before");
    return;
  }
  if (execs_.size() >= kMaxExecs) {
    ReplyError(request, "TOO_MANY_EXECS", "exec: the monitor runs no more at once");
    return;
  }
  settings.cgroup += "/exec-" + std::to_string(next_exec_number_++);
  settings.launch.container_pid = container->pid();
  settings.runtime = container->runtime();
  // Facts of the container that a process object does not hold, its seccomp profile above all.
  auto spec = sys::ReadFileAt(AT_FDCWD, (container->bundle() + "/config.json").c_str(), kMaxConfigBytes);
  if (!spec) {
    const char* const name = strerrorname_np(spec.failure().error);
    runtime::Problem problem;
    problem.message = "read the bundle's config.json: " + std::string(spec.failure().op) + ": " + (name ? name : "");
    problem.step = "spec";
    problem.syscall = spec.failure().op;
    problem.errno_name = name != nullptr ? name : "";
    ReplyProblem(request.client, request.id, "EXEC_FAILED", problem);
    return;
  }
  settings.launch.spec_json = std::move(*spec);
  scratch_.TrimSoon();
  auto exec = std::make_unique<Exec>(&loop_, &scratch_, this, std::move(settings));
  runtime::Problem problem;
  if (!exec->Begin(&problem)) {
    ReplyProblem(request.client, request.id, "EXEC_FAILED", problem);
    loop_.Bury(std::move(exec));
    return;
  }
  pending_.push_back({exec.get(), request.client->serial(), request.id});
  execs_.push_back(std::move(exec));
}

// The container a request names; otherwise the request is answered and this is nullptr.
Container* Monitor::NeedContainer(const Request& request, Params* params) {
  const std::string id = params->String("containerId");
  if (!params->ok()) {
    ReplyError(request, "BAD_REQUEST", "parameter \"" + params->wrong() + "\" is missing or wrong");
    return nullptr;
  }
  Container* const container = FindContainer(id);
  if (container == nullptr) ReplyError(request, "CONTAINER_NOT_FOUND", "there is no container of this id");
  return container;
}

void Monitor::Signal(const Request& request) {
  Params params(request.params);
  const int signal = static_cast<int>(params.Unsigned("signal", SIGRTMAX));
  Container* const container = NeedContainer(request, &params);
  if (container == nullptr) return;
  if (!container->SendSignal(signal)) {
    ReplyError(request, "CONTAINER_NOT_RUNNING", "signal: the container does not run");
    return;
  }
  ReplyEmpty(request);
}

void Monitor::Stop(const Request& request) {
  Params params(request.params);
  const int signal = static_cast<int>(params.Unsigned("signal", SIGRTMAX));
  const auto grace_ms = static_cast<int64_t>(params.Unsigned("graceMs", kMaxDurationMs));
  Container* const container = NeedContainer(request, &params);
  if (container == nullptr) return;
  container->Stop(signal, grace_ms);
  ReplyEmpty(request);
}

void Monitor::Kill(const Request& request) {
  Params params(request.params);
  Container* const container = NeedContainer(request, &params);
  if (container == nullptr) return;
  if (container->is_alive()) container->Kill();
  ReplyEmpty(request);
}

void Monitor::KillExec(const Request& request) {
  Params params(request.params);
  const std::string exec_id = params.String("execId");
  if (!IsId(exec_id)) {
    ReplyError(request, "BAD_REQUEST", "killExec: parameter \"execId\" is missing or wrong");
    return;
  }
  // One that is not known has ended.
  if (Exec* const exec = FindExec(exec_id)) exec->Kill();
  ReplyEmpty(request);
}

void Monitor::StartInit(const Request& request) {
  Params params(request.params);
  const std::string cgroup = params.String("cgroup");
  if (!IsAbsolute(cgroup)) {
    ReplyError(request, "BAD_REQUEST", "startInit: parameter \"cgroup\" is missing or wrong");
    return;
  }
  if (init_.pid() != 0) {
    ReplyError(request, "INIT_EXISTS", "startInit: the sandbox has its init process already");
    return;
  }
  const auto started = init_.Start(cgroup, FindHeld("user"));
  if (!started) {
    const char* const name = strerrorname_np(started.failure().error);
    runtime::Problem problem;
    problem.step = "init";
    problem.syscall = started.failure().op;
    problem.errno_name = name != nullptr ? name : "";
    problem.message = "start minke-init in cgroup \"" + cgroup + "\": " + problem.syscall + ": " + problem.errno_name;
    ReplyProblem(request.client, request.id, "INIT_FAILED", problem);
    return;
  }
  pending_.push_back({&init_, request.client->serial(), request.id});
}

void Monitor::Resize(const Request& request) {
  Params params(request.params);
  const auto columns = static_cast<unsigned>(params.Unsigned("columns", UINT16_MAX));
  const auto rows = static_cast<unsigned>(params.Unsigned("rows", UINT16_MAX));
  const std::string container_id = params.OptionalString("containerId");
  const std::string exec_id = params.OptionalString("execId");
  if (!params.ok()) {
    ReplyError(request, "BAD_REQUEST", "resize: parameter \"" + params.wrong() + "\" is missing or wrong");
    return;
  }
  Process* process = FindContainer(container_id);
  if (process == nullptr) process = FindExec(exec_id);
  if (process == nullptr) {
    ReplyError(request, container_id.empty() ? "EXEC_NOT_FOUND" : "CONTAINER_NOT_FOUND",
               "resize: there is no process of this id");
  } else if (!process->Resize(columns, rows)) {
    ReplyError(request, "NO_TERMINAL", "resize: the process has no terminal");
  } else {
    ReplyEmpty(request);
  }
}

void Monitor::ReopenLog(const Request& request) {
  Params params(request.params);
  Container* const container = NeedContainer(request, &params);
  if (container == nullptr) return;
  if (!container->has_log()) {
    ReplyError(request, "CONTAINER_NOT_RUNNING", "reopenLog: the container writes no log any more");
    return;
  }
  const auto reopened = container->ReopenLog();
  if (!reopened) {
    const char* const name = strerrorname_np(reopened.failure().error);
    runtime::Problem problem;
    problem.message = "reopen the log: " + std::string(reopened.failure().op) + ": " + (name ? name : "");
    problem.step = "log";
    problem.syscall = reopened.failure().op;
    problem.errno_name = name != nullptr ? name : "";
    ReplyProblem(request.client, request.id, "LOG_REOPEN_FAILED", problem);
    return;
  }
  ReplyEmpty(request);
}

void Monitor::Forget(const Request& request) {
  Params params(request.params);
  Container* const container = NeedContainer(request, &params);
  if (container == nullptr) return;
  if (!container->is_ended()) {
    ReplyError(request, "CONTAINER_RUNNING", "forget: the container has not ended");
    return;
  }
  BuryContainer(container);
  ReplyEmpty(request);
}

void Monitor::Shutdown(const Request& request) {
  if (HasRunningContainer()) {
    ReplyError(request, "CONTAINERS_RUNNING", "shutdown: a container has not ended");
    return;
  }
  ReplyEmpty(request);
  BeginShutdown();
}

}  // namespace monitor
