// The commands on a container that exists: start, state, kill, delete, list, ps, pause, resume.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "oci/cgroup.h"
#include "oci/commands.h"
#include "oci/options.h"
#include "oci/record.h"
#include "runtime/child_report.h"
#include "runtime/container.h"
#include "runtime/describe_report.h"
#include "runtime/hooks.h"
#include "runtime/plan.h"
#include "sys/files.h"
#include "sys/process.h"

namespace oci {
namespace {

// Processes of a loaded machine stop within milliseconds; those in state D may never.
constexpr int kFreezeDeadlineMs = 10'000;

// Parses options with one operand, the id, and loads its record.
bool LoadFor(Options* options, const Arguments& arguments, const GlobalOptions& global,
             Record* record, std::string* problem) {
  if (!options->Parse(arguments, problem)) return false;
  if (options->operands().empty()) {
    *problem = "expected a container id";
    return false;
  }
  const std::string& id = options->operands()[0];
  auto loaded = LoadRecord(global, id);
  if (!loaded) {
    *problem = loaded.failure().error == EBADMSG ? "the record of container \"" + id + "\" cannot be read"
                                                 : "container \"" + id + "\" does not exist";
    return false;
  }
  *record = std::move(*loaded);
  return true;
}

bool LoadSpec(const Record& record, runtime::Spec* spec) {
  auto text = sys::ReadFileAt(AT_FDCWD, (record.bundle + "/config.json").c_str(),
                              runtime::kMaxSpecBytes);
  runtime::SpecError error;
  return text.ok() && runtime::ReadSpec(std::move(*text), spec, &error);
}

// Connects to the waiting child. It answers with nothing but the end of the stream when it
// runs, or with the report of what went wrong.
bool ReleaseChild(const GlobalOptions& global, const Record& record, std::string* problem) {
  const std::string path = ContainerDirectory(global, record.id);
  auto directory = sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY);
  struct sockaddr_un address;
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  ::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/start.sock",
             directory ? directory->get() : -1);
  sys::UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!directory || !socket.valid() ||
      ::connect(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0) {
    *problem = "start container \"" + record.id + "\": connect: " + runtime::ErrnoName(errno);
    return false;
  }
  ::unlinkat(directory->get(), "start.sock", 0);
  runtime::ChildReport report;
  bool is_at_exec = false;
  ssize_t got;
  for (;;) {
    got = ::recv(socket.get(), &report, sizeof report, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got != static_cast<ssize_t>(sizeof report)) break;
    if (report.kind == runtime::ReportKind::kFailed) break;
    is_at_exec = is_at_exec || report.kind == runtime::ReportKind::kExec;
  }
  if (got != static_cast<ssize_t>(sizeof report)) {
    if (is_at_exec) return true;
    *problem = "start container \"" + record.id + "\": its process ended before its command was executed";
    return false;
  }
  runtime::Spec spec;
  runtime::Plan plan;
  runtime::SpecError error;
  *problem = "start container \"" + record.id + "\"";
  if (LoadSpec(record, &spec) && runtime::MakePlan(std::move(spec), &plan, &error)) {
    *problem = runtime::DescribeReport(report, plan).message;
  }
  return false;
}

int SignalByName(const std::string& text) {
  if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) {
    const int number = atoi(text.c_str());
    return number >= 0 && number <= SIGRTMAX ? number : -1;
  }
  std::string name = text;
  if (strncasecmp(name.c_str(), "SIG", 3) == 0) name = name.substr(3);
  for (int signal = 1; signal < 32; signal++) {
    const char* known = sigabbrev_np(signal);
    if (known != nullptr && strcasecmp(known, name.c_str()) == 0) return signal;
  }
  if (strncasecmp(name.c_str(), "RTMIN", 5) == 0) {
    const int number = SIGRTMIN + atoi(name.c_str() + 5);
    return number >= SIGRTMIN && number <= SIGRTMAX ? number : -1;
  }
  return -1;
}

// Signals the first process, making sure by its start time that it still is the container's.
bool SendSignal(const Record& record, int signal, std::string* problem) {
  auto pidfd = sys::pidfd_open(record.pid);
  const bool is_ours = pidfd && StartTicks(record.pid) == record.start_ticks;
  if (is_ours && sys::pidfd_send_signal(pidfd->get(), signal).ok()) return true;
  *problem = "kill container \"" + record.id + "\": it is not running";
  return false;
}

// cgroup-v2.rst, "cgroup.freeze": processes stop one by one, and the end is told by
// cgroup.events, whose changes are a POLLPRI. A process in state D does not stop.
bool WaitUntilFrozen(const std::string& cgroup) {
  auto events = sys::open_at(AT_FDCWD, (cgroup + "/cgroup.events").c_str(), O_RDONLY);
  if (!events) return false;
  constexpr int kStepMs = 100;
  for (int waited_ms = 0; waited_ms <= kFreezeDeadlineMs; waited_ms += kStepMs) {
    char text[256] = {};
    if (::pread(events->get(), text, sizeof text - 1, 0) < 0) return false;
    if (strstr(text, "frozen 1") != nullptr) return true;
    struct pollfd change = {events->get(), POLLPRI, 0};
    ::poll(&change, 1, kStepMs);
  }
  return false;
}

std::vector<int> PidsOf(const Record& record) {
  std::vector<int> pids;
  auto text = sys::ReadFileAt(AT_FDCWD, (record.cgroup + "/cgroup.procs").c_str(), 1 << 20);
  if (!text) return pids;
  for (const char* at = text->c_str(); *at != '\0';) {
    char* end;
    const long pid = strtol(at, &end, 10);
    if (end == at) break;
    pids.push_back(static_cast<int>(pid));
    at = *end == '\n' ? end + 1 : end;
  }
  return pids;
}

}  // namespace

int CommandStart(const GlobalOptions& global, const Arguments& arguments) {
  Options options({}, {}, false);
  Record record;
  std::string problem;
  if (!LoadFor(&options, arguments, global, &record, &problem)) return Complain(global, problem);
  const std::string status = StatusOf(global, record);
  if (status != "created") {
    return Complain(global, "start container \"" + record.id + "\": it is " + status +
                                ", not created");
  }
  if (!ReleaseChild(global, record, &problem)) return Complain(global, problem);
  runtime::Spec spec;
  if (!LoadSpec(record, &spec) || spec.poststart.empty()) return 0;
  runtime::Problem failure;
  const runtime::HookState state{record.id, record.bundle, record.pid, "running", &spec};
  if (!runtime::RunHooks(spec.poststart, "poststart", state, &failure)) {
    (void)SendSignal(record, SIGKILL, &problem);
    return Complain(global, failure.message);
  }
  return 0;
}

int CommandState(const GlobalOptions& global, const Arguments& arguments) {
  Options options({}, {}, false);
  Record record;
  std::string problem;
  if (!LoadFor(&options, arguments, global, &record, &problem)) return Complain(global, problem);
  ::puts(StateDocument(global, record, true).c_str());
  return 0;
}

int CommandKill(const GlobalOptions& global, const Arguments& arguments) {
  Options options({}, {"all|a"}, false);
  Record record;
  std::string problem;
  if (!LoadFor(&options, arguments, global, &record, &problem)) return Complain(global, problem);
  const std::string name = options.operands().size() > 1 ? options.operands()[1] : "SIGTERM";
  const int signal = SignalByName(name);
  if (signal < 0) return Complain(global, "unknown signal \"" + name + "\"");
  if (options.Has("all")) {
    if (signal == SIGKILL && KillCgroup(record.cgroup)) return 0;
    for (const int pid : PidsOf(record)) ::kill(pid, signal);
    return 0;
  }
  return SendSignal(record, signal, &problem) ? 0 : Complain(global, problem);
}

int CommandDelete(const GlobalOptions& global, const Arguments& arguments) {
  Options options({}, {"force|f"}, false);
  Record record;
  std::string problem;
  const bool is_loaded = LoadFor(&options, arguments, global, &record, &problem);
  const bool is_forced = options.Has("force");
  if (!is_loaded) {
    if (options.operands().empty()) return Complain(global, problem);
    const std::string& id = options.operands()[0];
    auto loaded = LoadRecord(global, id);
    // A half-made container has nothing but its directory; anything else does not exist.
    if (!loaded && loaded.failure().error == EBADMSG) {
      RemoveContainerDirectory(global, id);
      return 0;
    }
    return is_forced ? 0 : Complain(global, problem);
  }
  const std::string status = StatusOf(global, record);
  if (status != "stopped") {
    // A created container has run nothing yet: deleting it is deleting what create made.
    if (!is_forced && status != "created") {
      return Complain(global, "delete container \"" + record.id + "\": it is " + status);
    }
    auto pidfd = sys::pidfd_open(record.pid);
    if (!KillCgroup(record.cgroup)) (void)SendSignal(record, SIGKILL, &problem);
    if (pidfd) {
      struct pollfd ended = {pidfd->get(), POLLIN, 0};
      ::poll(&ended, 1, 10'000);
    }
  }
  if (record.made_cgroup && !RemoveCgroup(record.cgroup)) {
    KillCgroup(record.cgroup);
    if (!RemoveCgroup(record.cgroup)) {
      return Complain(global, "remove cgroup \"" + record.cgroup + "\": rmdir: " +
                                  runtime::ErrnoName(errno));
    }
  }
  runtime::Spec spec;
  if (LoadSpec(record, &spec)) {
    const runtime::HookState state{record.id, record.bundle, 0, "stopped", &spec};
    for (const std::string& warning : runtime::RunPoststop(state)) Warn(global, warning);
  }
  runtime::RemoveRdtGroups(record.rdt_groups);
  RemoveContainerDirectory(global, record.id);
  return 0;
}

int CommandList(const GlobalOptions& global, const Arguments& arguments) {
  Options options({"format|f"}, {"quiet|q"}, false);
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  const std::string format = options.Value("format", "table");
  if (format != "table" && format != "json") return Complain(global, "unknown format \"" + format + "\"");
  std::string json = "[";
  if (format == "table" && !options.Has("quiet")) {
    ::printf("%-20s %-10s %-10s %-40s %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
  }
  for (const std::string& id : ListIds(global)) {
    auto loaded = LoadRecord(global, id);
    Record record;
    record.id = id;
    if (loaded) record = std::move(*loaded);
    if (options.Has("quiet")) {
      ::puts(id.c_str());
    } else if (format == "json") {
      json += (json.size() > 1 ? "," : "") + StateDocument(global, record, true);
    } else {
      const char* status = StatusOf(global, record);
      ::printf("%-20s %-10d %-10s %-40s %s\n", id.c_str(),
               strcmp(status, "stopped") == 0 ? 0 : record.pid, status, record.bundle.c_str(),
               record.created.c_str());
    }
  }
  if (format == "json" && !options.Has("quiet")) ::puts((json + "]").c_str());
  return 0;
}

int CommandPs(const GlobalOptions& global, const Arguments& arguments) {
  Options options({"format|f"}, {}, false);
  Record record;
  std::string problem;
  if (!LoadFor(&options, arguments, global, &record, &problem)) return Complain(global, problem);
  const bool is_json = options.Value("format", "table") == "json";
  std::string json = "[";
  if (!is_json) ::puts("PID");
  for (const int pid : PidsOf(record)) {
    if (is_json) {
      json += (json.size() > 1 ? "," : "") + std::to_string(pid);
    } else {
      ::printf("%d\n", pid);
    }
  }
  if (is_json) ::puts((json + "]").c_str());
  return 0;
}

int CommandFreeze(const GlobalOptions& global, const Arguments& arguments, bool is_pause) {
  Options options({}, {}, false);
  Record record;
  std::string problem;
  if (!LoadFor(&options, arguments, global, &record, &problem)) return Complain(global, problem);
  const std::string status = StatusOf(global, record);
  const char* verb = is_pause ? "pause" : "resume";
  if (status != (is_pause ? "running" : "paused") && !(is_pause && status == "created")) {
    return Complain(global, std::string(verb) + " container \"" + record.id + "\": it is " + status);
  }
  const std::string file = record.cgroup + "/cgroup.freeze";
  auto written = sys::WriteFileAt(AT_FDCWD, file.c_str(), is_pause ? "1" : "0");
  if (written && (!is_pause || WaitUntilFrozen(record.cgroup))) return 0;
  if (written) {
    (void)sys::WriteFileAt(AT_FDCWD, file.c_str(), "0");
    return Complain(global, "pause container \"" + record.id +
                                "\": its processes do not stop, most likely in uninterruptible "
                                "sleep (state D in ps)");
  }
  return Complain(global, std::string(verb) + " container \"" + record.id + "\": write: " +
                              runtime::ErrnoName(written.failure().error));
}

}  // namespace oci
