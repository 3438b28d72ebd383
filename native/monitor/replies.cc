// What the monitor answers: results, errors, the list, and events to every control client.
#include <signal.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "monitor/monitor.h"

namespace monitor {
namespace {

std::string_view TextOf(const rapidjson::StringBuffer& text) {
  return std::string_view(text.GetString(), text.GetSize());
}

void BeginReply(JsonWriter* writer, int64_t id, const char* member) {
  writer->StartObject();
  writer->Key("id");
  writer->Int64(id);
  writer->Key(member);
  writer->StartObject();
}

void EndReply(JsonWriter* writer) {
  writer->EndObject();
  writer->EndObject();
}

const char* StateName(const Container& container) {
  if (container.is_starting()) return "starting";
  return container.is_ended() ? "exited" : "running";
}

}  // namespace

void Monitor::ReplyEmpty(const Request& request) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  BeginReply(&writer, request.id, "result");
  EndReply(&writer);
  request.client->SendJson(TextOf(text));
}

void Monitor::ReplyError(const Request& request, const char* code, const std::string& message) {
  runtime::Problem problem;
  problem.message = message;
  ReplyProblem(request.client, request.id, code, problem);
}

void Monitor::ReplyProblem(Connection* client, int64_t id, const char* code, const runtime::Problem& problem) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  BeginReply(&writer, id, "error");
  writer.Key("code");
  writer.String(code);
  writer.Key("message");
  PutString(&writer, problem.message);
  const auto put = [&writer](const char* name, const std::string& value) {
    if (value.empty()) return;
    writer.Key(name);
    PutString(&writer, value);
  };
  put("step", problem.step);
  put("syscall", problem.syscall);
  put("errno", problem.errno_name);
  put("jsonPath", problem.json_path);
  EndReply(&writer);
  client->SendJson(TextOf(text));
}

// The client that waits for the process's answer; nullptr where it has gone.
Connection* Monitor::TakePending(const void* process, int64_t* request_id) {
  const auto reply = std::find_if(pending_.begin(), pending_.end(),
                                  [process](const PendingReply& pending) { return pending.process == process; });
  if (reply == pending_.end()) return nullptr;
  *request_id = reply->request_id;
  const uint64_t serial = reply->client_serial;
  pending_.erase(reply);
  const auto client = std::find_if(connections_.begin(), connections_.end(),
                                   [serial](const auto& connection) { return connection->serial() == serial; });
  return client == connections_.end() ? nullptr : client->get();
}

void Monitor::ReplyStarted(const Process* process) {
  int64_t id = 0;
  Connection* const client = TakePending(process, &id);
  if (client == nullptr) return;
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  BeginReply(&writer, id, "result");
  writer.Key("pid");
  writer.Int(process->pid());
  writer.Key("startedAtNs");
  PutNs(&writer, process->started_at_ns());
  EndReply(&writer);
  client->SendJson(TextOf(text));
}

void Monitor::OnInitReady(int error) {
  int64_t id = 0;
  Connection* const client = TakePending(&init_, &id);
  if (client == nullptr) return;
  if (error != 0) {
    const char* const name = strerrorname_np(error);
    runtime::Problem problem;
    problem.step = "init";
    problem.errno_name = name != nullptr ? name : "";
    problem.message = "isolate minke-init: " + problem.errno_name;
    ReplyProblem(client, id, "INIT_FAILED", problem);
    return;
  }
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  BeginReply(&writer, id, "result");
  writer.Key("pid");
  writer.Int(init_.pid());
  EndReply(&writer);
  client->SendJson(TextOf(text));
}

void Monitor::ReplyCaptured(const Exec* exec) {
  int64_t id = 0;
  Connection* const client = TakePending(exec, &id);
  if (client == nullptr) return;
  const ExitStatus& exit = exec->exit_status();
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  BeginReply(&writer, id, "result");
  writer.Key("exitCode");
  // Not reaped in time after a timeout: what SIGKILL will make of it.
  writer.Int(exec->is_reaped() ? exit.exit_code : 128 + SIGKILL);
  writer.Key("signal");
  writer.Int(exec->is_reaped() ? exit.signal : SIGKILL);
  writer.Key("stdout");
  PutString(&writer, Base64(exec->captured(Stream::kStdout)));
  writer.Key("stderr");
  PutString(&writer, Base64(exec->captured(Stream::kStderr)));
  writer.Key("truncated");
  writer.Bool(exec->is_truncated());
  writer.Key("timedOut");
  writer.Bool(exec->has_timed_out());
  EndReply(&writer);
  client->SendJson(TextOf(text));
}

void Monitor::List(const Request& request) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  BeginReply(&writer, request.id, "result");
  writer.Key("containers");
  writer.StartArray();
  for (const auto& container : containers_) {
    writer.StartObject();
    writer.Key("containerId");
    PutString(&writer, container->id());
    writer.Key("state");
    writer.String(StateName(*container));
    writer.Key("pid");
    writer.Int(container->pid());
    writer.Key("startedAtNs");
    PutNs(&writer, container->started_at_ns());
    if (container->is_ended()) {
      writer.Key("exit");
      PutExitRecord(&writer, container->id(), container->exit_status());
    }
    writer.EndObject();
  }
  writer.EndArray();
  if (init_.is_ready()) {
    writer.Key("initPid");
    writer.Int(init_.pid());
  }
  EndReply(&writer);
  request.client->SendJson(TextOf(text));
}

void Monitor::Broadcast(std::string_view json) {
  std::vector<Connection*> clients;  // copied: sending may close one
  for (const auto& connection : connections_) {
    if (connection->is_control()) clients.push_back(connection.get());
  }
  for (Connection* client : clients) client->SendJson(json);
}

}  // namespace monitor
