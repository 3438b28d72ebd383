// exec: a further process in a running container, from a process.json or from options.
#include <errno.h>
#include <fcntl.h>
#include <rapidjson/document.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "oci/commands.h"
#include "oci/options.h"
#include "oci/record.h"
#include "oci/terminal.h"
#include "runtime/container.h"
#include "runtime/describe_report.h"
#include "runtime/spec.h"
#include "runtime/spec_names.h"
#include "sys/files.h"
#include "sys/process.h"

namespace oci {
namespace {

using Json = rapidjson::Document;

void Set(Json* json, rapidjson::Value* object, const char* key, rapidjson::Value value) {
  if (auto member = object->FindMember(key); member != object->MemberEnd()) {
    member->value = value;
  } else {
    object->AddMember(rapidjson::StringRef(key), value, json->GetAllocator());
  }
}

rapidjson::Value Text(Json* json, const std::string& text) {
  return rapidjson::Value(text.c_str(), static_cast<rapidjson::SizeType>(text.size()),
                          json->GetAllocator());
}

// "-u uid[:gid]": digits alone, the whole of each (the class of crun's CVE-2026-30892).
bool ParseId(const std::string& text, uint64_t* id) {
  if (text.empty() || text.size() > 10) return false;
  *id = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    *id = *id * 10 + static_cast<uint64_t>(c - '0');
  }
  return *id < UINT32_MAX;
}

bool SetUser(Json* json, const std::string& text, std::string* problem) {
  const size_t colon = text.find(':');
  uint64_t uid = 0, gid = 0;
  if (!ParseId(text.substr(0, colon), &uid) ||
      (colon != std::string::npos && !ParseId(text.substr(colon + 1), &gid))) {
    *problem = "--user \"" + text + "\" is not uid[:gid]";
    return false;
  }
  rapidjson::Value user(rapidjson::kObjectType);
  user.AddMember("uid", uid, json->GetAllocator());
  user.AddMember("gid", gid, json->GetAllocator());
  Set(json, json, "user", std::move(user));
  return true;
}

// "-g gid", repeated or with commas: added to those that the process has.
bool AddGroups(Json* json, const std::vector<std::string>& lists, std::string* problem) {
  for (const std::string& list : lists) {
    for (size_t at = 0; at <= list.size();) {
      const size_t comma = std::min(list.find(',', at), list.size());
      uint64_t gid = 0;
      if (!ParseId(list.substr(at, comma - at), &gid)) {
        *problem = "--additional-gids \"" + list + "\" is not a list of gids";
        return false;
      }
      at = comma + 1;
      if (!json->HasMember("user")) Set(json, json, "user", rapidjson::Value(rapidjson::kObjectType));
      rapidjson::Value& user = (*json)["user"];
      if (!user.IsObject()) break;
      if (!user.HasMember("additionalGids")) {
        Set(json, &user, "additionalGids", rapidjson::Value(rapidjson::kArrayType));
      }
      rapidjson::Value& gids = user["additionalGids"];
      if (gids.IsArray()) gids.PushBack(gid, json->GetAllocator());
    }
  }
  return true;
}

bool AddCapabilities(Json* json, const std::vector<std::string>& names, std::string* problem) {
  if (names.empty()) return true;
  if (!json->HasMember("capabilities")) {
    Set(json, json, "capabilities", rapidjson::Value(rapidjson::kObjectType));
  }
  rapidjson::Value& sets = (*json)["capabilities"];
  if (!sets.IsObject()) {
    *problem = "process.capabilities is not an object";
    return false;
  }
  for (const std::string& name : names) {
    if (runtime::CapabilityByName(name.c_str()) < 0) {
      *problem = "--cap \"" + name + "\" is not the name of a capability";
      return false;
    }
    // Inheritable and ambient stay as they are (the class of CVE-2022-24769).
    for (const char* set : {"bounding", "effective", "permitted"}) {
      if (!sets.HasMember(set)) Set(json, &sets, set, rapidjson::Value(rapidjson::kArrayType));
      if (sets[set].IsArray()) sets[set].PushBack(Text(json, name), json->GetAllocator());
    }
  }
  return true;
}

// The container's own process with the command and the options put in.
bool ProcessFromOptions(const Options& options, const std::string& config, Json* json,
                        std::string* problem) {
  Json spec;
  spec.Parse<rapidjson::kParseIterativeFlag>(config.c_str(), config.size());
  if (spec.HasParseError() || !spec.IsObject() || !spec.HasMember("process")) {
    *problem = "the container's config.json has no process";
    return false;
  }
  json->CopyFrom(spec["process"], json->GetAllocator());
  auto& allocator = json->GetAllocator();
  rapidjson::Value args(rapidjson::kArrayType);
  for (size_t i = 1; i < options.operands().size(); i++) {
    args.PushBack(Text(json, options.operands()[i]), allocator);
  }
  Set(json, json, "args", std::move(args));
  Set(json, json, "terminal", rapidjson::Value(options.Has("tty")));
  if (options.Has("cwd")) Set(json, json, "cwd", Text(json, options.Value("cwd")));
  if (options.Has("no-new-privs")) Set(json, json, "noNewPrivileges", rapidjson::Value(true));
  if (options.Has("apparmor")) Set(json, json, "apparmorProfile", Text(json, options.Value("apparmor")));
  if (options.Has("process-label")) {
    Set(json, json, "selinuxLabel", Text(json, options.Value("process-label")));
  }
  if (!json->HasMember("env")) Set(json, json, "env", rapidjson::Value(rapidjson::kArrayType));
  for (const std::string& entry : options.Values("env")) {
    if ((*json)["env"].IsArray()) (*json)["env"].PushBack(Text(json, entry), allocator);
  }
  if (options.Has("user") && !SetUser(json, options.Value("user"), problem)) return false;
  if (!AddGroups(json, options.Values("additional-gids"), problem)) return false;
  return AddCapabilities(json, options.Values("cap"), problem);
}

bool MakeProcessJson(const Options& options, const std::string& config, std::string* text,
                     std::string* problem) {
  if (options.Has("process")) {
    const std::string path = options.Value("process");
    auto read = sys::ReadFileAt(AT_FDCWD, path.c_str(), runtime::kMaxSpecBytes);
    if (!read) {
      *problem = "read \"" + path + "\": " + read.failure().op + ": " +
                 runtime::ErrnoName(read.failure().error);
      return false;
    }
    *text = std::move(*read);
    return true;
  }
  if (options.operands().size() < 2) {
    *problem = "expected a command";
    return false;
  }
  Json json;
  if (!ProcessFromOptions(options, config, &json, problem)) return false;
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  json.Accept(writer);
  *text = buffer.GetString();
  return true;
}

// Each exec runs in a cgroup of its own below the container's, so that it can be killed whole.
// --cgroup names one that is there, below the container's: nothing is made then.
std::string MakeExecCgroup(const std::string& container, const Options& options) {
  if (container.empty()) return "";
  if (options.Has("cgroup")) return container + "/" + options.Value("cgroup");
  const std::string path = container + "/exec-" + std::to_string(::getpid());
  return ::mkdir(path.c_str(), 0755) == 0 ? path : container;
}

// runc's exec ends with 255 where no command ran, since 1 may be the command's own.
int Refuse(const GlobalOptions& global, const std::string& problem) {
  (void)Complain(global, problem);
  return 255;
}

}  // namespace

int CommandExec(const GlobalOptions& global, const Arguments& arguments) {
  Options options({"console-socket", "cwd", "env|e", "user|u", "additional-gids|g", "process|p",
                   "pid-file", "process-label", "apparmor", "cap|c", "preserve-fds", "cgroup"},
                  {"tty|t", "detach|d", "no-new-privs", "ignore-paused"}, true);
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  if (options.operands().empty()) return Complain(global, "expected a container id");
  const std::string& id = options.operands()[0];
  auto record = LoadRecord(global, id);
  if (!record) return Refuse(global, "container \"" + id + "\" does not exist");
  const std::string status = StatusOf(global, *record);
  const bool may_run = status == "running" || status == "created" ||
                       (status == "paused" && options.Has("ignore-paused"));
  if (!may_run) return Refuse(global, "exec in container \"" + id + "\": it is " + status);
  auto config = sys::ReadFileAt(AT_FDCWD, (record->bundle + "/config.json").c_str(),
                                runtime::kMaxSpecBytes);
  if (!config) return Refuse(global, "the container's config.json cannot be read");

  runtime::ExecRequest request;
  request.container_pid = record->pid;
  request.spec_json = *config;
  request.filter_cache = global.root + "/@filters";
  if (!PreservedFds(options, &request.preserve_fds, &problem)) return Refuse(global, problem);
  for (int i = 0; i < 3; i++) request.stdio[i] = i;
  if (!MakeProcessJson(options, *config, &request.process_json, &problem)) {
    return Refuse(global, problem);
  }
  if (const std::string below = "/" + options.Value("cgroup") + "/";
      below.find("/../") != std::string::npos || below.find(':') != std::string::npos) {
    return Refuse(global, "--cgroup \"" + options.Value("cgroup") +
                                "\" is not a path below the container's cgroup");
  }
  const std::string cgroup = MakeExecCgroup(record->cgroup, options);
  const bool made_cgroup = !options.Has("cgroup") && cgroup != record->cgroup;
  request.cgroup = cgroup;
  runtime::Launch launch;
  runtime::Problem failure;
  runtime::Spec spec;
  runtime::SpecError error;
  const bool is_read = runtime::ReadSpec(*config, &spec, &error);
  const bool is_started = (!is_read || runtime::JoinRdtGroups(spec, id, &failure)) &&
                          runtime::StartExec(request, &launch, &failure);
  if (!is_started || !runtime::FinishLaunch(&launch, &failure)) {
    if (launch.pidfd.valid()) (void)sys::waitid_pidfd(launch.pidfd.get(), 0, nullptr).ok();
    if (made_cgroup) ::rmdir(cgroup.c_str());
    Complain(global, failure.message);
    return failure.step == "exec" ? (failure.error == ENOENT ? 127 : 126) : 255;
  }
  if (const std::string pid_file = options.Value("pid-file"); !pid_file.empty()) {
    auto written = sys::WriteAtomically(AT_FDCWD, pid_file.c_str(), std::to_string(launch.pid),
                                        0644, false);
    if (!written) Complain(global, "write pid file \"" + pid_file + "\", ignoring");
  }
  if (launch.terminal.valid() && options.Has("console-socket")) {
    if (!SendTerminal(options.Value("console-socket"), launch.terminal.get(), &problem)) {
      (void)sys::pidfd_send_signal(launch.pidfd.get(), 9).ok();
      return Complain(global, problem);
    }
    launch.terminal.reset();
  }
  if (options.Has("detach")) return 0;
  const int code = WaitInForeground(launch.pid, launch.pidfd.get(), launch.terminal.get());
  if (made_cgroup) ::rmdir(cgroup.c_str());
  return code;
}

}  // namespace oci
