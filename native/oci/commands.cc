#include "oci/commands.h"

#include <fcntl.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "oci/options.h"
#include "runtime/describe_report.h"
#include "sys/files.h"
#include "sys/memfd.h"

extern char** environ;

namespace oci {
namespace {

constexpr const char* kUsage =
    "usage: minke-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND\n"
    "  create   [--bundle DIR] [--pid-file FILE] [--console-socket SOCK] ID\n"
    "  run      [--bundle DIR] [--pid-file FILE] [--detach] ID\n"
    "  start    ID\n"
    "  state    ID\n"
    "  kill     [--all] ID [SIGNAL]\n"
    "  delete   [--force] ID\n"
    "  exec     [--tty] [--user UID[:GID]] [--env K=V] [--cwd DIR] [--process FILE] ID CMD...\n"
    "  list     [--format table|json] [--quiet]\n"
    "  ps       [--format table|json] ID\n"
    "  pause    ID\n"
    "  resume   ID\n"
    "  update   [--memory N] [--cpu-quota N] ... [--resources FILE] ID\n"
    "  events   [--stats] [--interval 5s] ID\n"
    "  features\n"
    "  spec     [--bundle DIR]\n";

// What needs a program that no container can write to: all that clone a child.
bool StartsProcesses(const std::string& command) {
  return command == "create" || command == "run" || command == "exec";
}

// 0, 1 and 2 are open from here on, so no descriptor of ours lands there.
void OpenStandardStreams() {
  for (;;) {
    const int fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 || fd > 2) {
      if (fd > 2) ::close(fd);
      return;
    }
    (void)::fcntl(fd, F_SETFD, 0);
  }
}

void WriteLog(const GlobalOptions& global, const char* level, const std::string& message) {
  std::string line = std::string("minke-oci: ") + level + ": " + message + "\n";
  if (global.log_json) {
    struct timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    struct tm parts;
    char time[64];
    ::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&now.tv_sec, &parts));
    rapidjson::StringBuffer buffer;
    rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
    writer.StartObject();
    writer.Key("level");
    writer.String(level);
    writer.Key("msg");
    writer.String(message.c_str());
    writer.Key("time");
    writer.String(time);
    writer.EndObject();
    line = std::string(buffer.GetString()) + "\n";
  }
  auto log = sys::open_at(AT_FDCWD, global.log.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (log) (void)sys::WriteAll(log->get(), line).ok();
}

int Dispatch(const GlobalOptions& global, const std::string& command, const Arguments& rest) {
  if (command == "create") return CommandCreate(global, rest, false);
  if (command == "run") return CommandCreate(global, rest, true);
  if (command == "start") return CommandStart(global, rest);
  if (command == "state") return CommandState(global, rest);
  if (command == "kill") return CommandKill(global, rest);
  if (command == "delete") return CommandDelete(global, rest);
  if (command == "exec") return CommandExec(global, rest);
  if (command == "list") return CommandList(global, rest);
  if (command == "ps") return CommandPs(global, rest);
  if (command == "pause") return CommandFreeze(global, rest, true);
  if (command == "update") return CommandUpdate(global, rest);
  if (command == "events") return CommandEvents(global, rest);
  if (command == "features") return CommandFeatures(global, rest);
  if (command == "spec") return CommandSpec(global, rest);
  if (command == "resume") return CommandFreeze(global, rest, false);
  return Complain(global, "unknown command \"" + command + "\"");
}

}  // namespace

int Complain(const GlobalOptions& global, const std::string& message) {
  (void)sys::WriteAll(2, "minke-oci: " + message + "\n").ok();
  if (!global.log.empty()) WriteLog(global, "error", message);
  return 1;
}

void Warn(const GlobalOptions& global, const std::string& message) {
  if (!global.log.empty()) return WriteLog(global, "warning", message);
  (void)sys::WriteAll(2, "minke-oci: warning: " + message + "\n").ok();
}

int OciMain(int argc, char** argv) {
  OpenStandardStreams();
  const Arguments arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  Options options({"root", "log", "log-format"}, {"debug", "systemd-cgroup", "version|v", "help|h"},
                  true);
  GlobalOptions global;
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  global.root = options.Value("root", global.root.c_str());
  global.log = options.Value("log");
  global.debug = options.Has("debug");
  const std::string format = options.Value("log-format", "text");
  global.log_json = format == "json";
  if (format != "text" && format != "json") {
    return Complain(global, "unknown log format \"" + format + "\"");
  }
  if (options.Has("systemd-cgroup")) {
    return Complain(global, "--systemd-cgroup is not supported: cgroups are made in the file system");
  }
  if (options.Has("version")) {
    ::printf("minke-oci version 0.1.0\nspec: 1.3.0\n");
    return 0;
  }
  if (options.Has("help") || options.operands().empty()) {
    ::fputs(kUsage, options.Has("help") ? stdout : stderr);
    return options.Has("help") ? 0 : 1;
  }
  while (global.root.size() > 1 && global.root.back() == '/') global.root.pop_back();
  const std::string command = options.operands()[0];
  if (StartsProcesses(command)) {
    if (auto sealed = sys::reexec_from_sealed_memfd("minke-oci", argv, environ); !sealed) {
      return Complain(global, std::string("run from a sealed copy: ") + sealed.failure().op + ": " +
                                  runtime::ErrnoName(sealed.failure().error));
    }
  }
  const Arguments rest(options.operands().begin() + 1, options.operands().end());
  return Dispatch(global, command, rest);
}

}  // namespace oci
