// create and run: reserve the id, make the cgroup, start the child, record it.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "oci/cgroup.h"
#include "oci/commands.h"
#include "oci/options.h"
#include "oci/record.h"
#include "oci/terminal.h"
#include "runtime/container.h"
#include "runtime/describe_report.h"
#include "runtime/hooks.h"
#include "runtime/spec.h"
#include "sys/files.h"
#include "sys/process.h"

namespace oci {
namespace {

struct Creation {
  Record record;
  std::string config;
  runtime::Spec spec;
  sys::UniqueFd directory, listener;
  runtime::Launch launch;
  int preserve_fds = 0;
};

// UTC without libc's calendar, which would read /etc/localtime first: days to civil date by
// the proleptic Gregorian calendar, years starting in March.
std::string Now() {
  struct timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  const long days = now.tv_sec / 86400 + 719468;
  const long second = now.tv_sec % 86400;
  const long era = days / 146097;
  const long day_of_era = days % 146097;
  const long year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const long day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const long shifted_month = (5 * day_of_year + 2) / 153;
  const long day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
  const long month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
  const long year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
  char text[96];
  ::snprintf(text, sizeof text, "%04ld-%02ld-%02ldT%02ld:%02ld:%02ld.%09ldZ", year, month, day,
             second / 3600, second / 60 % 60, second % 60, now.tv_nsec);
  return text;
}

bool ReadBundle(const Options& options, Creation* creation, std::string* problem) {
  const std::string bundle = options.Value("bundle", ".");
  char* resolved = ::realpath(bundle.c_str(), nullptr);
  if (resolved == nullptr) {
    *problem = "bundle \"" + bundle + "\": realpath: " + runtime::ErrnoName(errno);
    return false;
  }
  creation->record.bundle = resolved;
  ::free(resolved);
  const std::string path = creation->record.bundle + "/config.json";
  auto text = sys::ReadFileAt(AT_FDCWD, path.c_str(), runtime::kMaxSpecBytes);
  if (!text) {
    *problem = "read \"" + path + "\": " + text.failure().op + ": " +
               runtime::ErrnoName(text.failure().error);
    return false;
  }
  creation->config = std::move(*text);
  runtime::SpecError error;
  if (!runtime::ReadSpec(creation->config, &creation->spec, &error)) {
    *problem = runtime::DescribeSpecError(error).message;
    return false;
  }
  return true;
}

// The socket on which `start` is awaited. Bound through /proc/self/fd: the root may be deep,
// and unix(7) has 108 bytes for the path.
bool Listen(Creation* creation, std::string* problem) {
  struct sockaddr_un address;
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  ::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/start.sock",
             creation->directory.get());
  sys::UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!listener.valid() ||
      ::bind(listener.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0 ||
      ::listen(listener.get(), 1) < 0) {
    *problem = std::string("start socket: bind: ") + runtime::ErrnoName(errno);
    return false;
  }
  creation->listener = std::move(listener);
  return true;
}

bool MakeContainerCgroup(Creation* creation, std::string* problem) {
  const std::string mount = FindCgroupMount();
  Record& record = creation->record;
  return CgroupPathFor(mount, creation->spec.cgroups_path, record.id, &record.cgroup, problem) &&
         MakeCgroup(mount, record.cgroup, creation->spec, &record.made_cgroup, problem);
}

bool Launch(const GlobalOptions& global, const Options& options, bool is_run, Creation* creation,
            std::string* problem) {
  runtime::LaunchRequest request;
  request.bundle = creation->record.bundle;
  request.config_json = creation->config;
  request.cgroup = creation->record.cgroup;
  request.id = creation->record.id;
  // No id has an "@", so no container takes the name.
  request.filter_cache = global.root + "/@filters";
  request.start_listener = is_run ? -1 : creation->listener.get();
  request.preserve_fds = creation->preserve_fds;
  request.keeps_mount_order = true;
  request.removes_rdt_groups = true;
  request.no_pivot = options.Has("no-pivot");
  request.no_new_keyring = options.Has("no-new-keyring");
  for (int i = 0; i < 3; i++) request.stdio[i] = i;
  runtime::Problem failure;
  if (!runtime::StartContainer(request, &creation->launch, &failure)) {
    *problem = failure.message;
    return false;
  }
  for (const std::string& warning : creation->launch.warnings) Warn(global, warning);
  if (!runtime::FinishLaunch(&creation->launch, &failure)) {
    *problem = failure.message;
    (void)sys::waitid_pidfd(creation->launch.pidfd.get(), 0, nullptr).ok();
    creation->launch = runtime::Launch();
    return false;
  }
  return true;
}

bool SaveAndTell(const Options& options, Creation* creation, std::string* problem) {
  Record& record = creation->record;
  record.pid = creation->launch.pid;
  record.start_ticks = StartTicks(record.pid);
  record.rdt_groups = runtime::RdtGroupsOf(creation->launch);
  if (auto saved = SaveRecord(creation->directory.get(), record); !saved) {
    *problem = std::string("write record: ") + saved.failure().op + ": " +
               runtime::ErrnoName(saved.failure().error);
    return false;
  }
  const std::string pid_file = options.Value("pid-file");
  if (pid_file.empty()) return true;
  auto written = sys::WriteAtomically(AT_FDCWD, pid_file.c_str(), std::to_string(record.pid), 0644,
                                      false);
  if (written) return true;
  *problem = "write pid file \"" + pid_file + "\": " + written.failure().op + ": " +
             runtime::ErrnoName(written.failure().error);
  return false;
}

// Everything that was made, newest first. A poststop hook's failure is not ours to report here.
void Undo(const GlobalOptions& global, Creation* creation) {
  if (creation->launch.pidfd.valid()) {
    (void)sys::pidfd_send_signal(creation->launch.pidfd.get(), SIGKILL).ok();
    (void)sys::waitid_pidfd(creation->launch.pidfd.get(), 0, nullptr).ok();
  }
  runtime::UndoOutside(&creation->launch);
  if (creation->record.made_cgroup) RemoveCgroup(creation->record.cgroup);
  if (creation->directory.valid()) RemoveContainerDirectory(global, creation->record.id);
}

bool RunPoststart(Creation* creation, std::string* problem) {
  runtime::Problem failure;
  const runtime::HookState state{creation->record.id, creation->record.bundle,
                                 creation->record.pid, "running", &creation->spec};
  if (runtime::RunHooks(creation->spec.poststart, "poststart", state, &failure)) return true;
  *problem = failure.message;
  return false;
}

int FinishRun(const GlobalOptions& global, const Options& options, Creation* creation) {
  const int code = WaitInForeground(creation->launch.pid, creation->launch.pidfd.get(),
                                    creation->launch.terminal.get());
  if (options.Has("keep")) return code;
  const runtime::HookState state{creation->record.id, creation->record.bundle, 0, "stopped",
                                 &creation->spec};
  for (const std::string& warning : runtime::RunPoststop(state)) Warn(global, warning);
  if (creation->record.made_cgroup && !RemoveCgroup(creation->record.cgroup)) {
    KillCgroup(creation->record.cgroup);
    RemoveCgroup(creation->record.cgroup);
  }
  runtime::RemoveRdtGroups(creation->record.rdt_groups);
  RemoveContainerDirectory(global, creation->record.id);
  return code;
}

}  // namespace

int CommandCreate(const GlobalOptions& global, const Arguments& arguments, bool is_run) {
  Options options({"bundle|b", "pid-file", "console-socket", "preserve-fds"},
                  {"no-pivot", "no-new-keyring", "detach|d", "keep", "no-subreaper"}, false);
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  if (options.operands().size() != 1) return Complain(global, "expected one container id");
  Creation creation;
  creation.record.id = options.operands()[0];
  creation.record.created = Now();
  if (!IsValidId(creation.record.id)) {
    return Complain(global, "invalid container id \"" + creation.record.id + "\"");
  }
  if (!PreservedFds(options, &creation.preserve_fds, &problem) ||
      !ReadBundle(options, &creation, &problem)) {
    return Complain(global, problem);
  }
  const bool is_attached = is_run && !options.Has("detach");
  if (creation.spec.process.terminal && !is_attached && options.Value("console-socket").empty()) {
    return Complain(global, "process.terminal needs --console-socket where the command detaches");
  }
  auto directory = MakeContainerDirectory(global, creation.record.id);
  if (!directory) {
    if (directory.failure().error == EEXIST) {
      return Complain(global, "container \"" + creation.record.id + "\" exists already");
    }
    return Complain(global, "make \"" + ContainerDirectory(global, creation.record.id) +
                                "\": mkdir: " + runtime::ErrnoName(directory.failure().error));
  }
  creation.directory = std::move(*directory);
  bool ok = (is_run || Listen(&creation, &problem)) && MakeContainerCgroup(&creation, &problem) &&
            Launch(global, options, is_run, &creation, &problem) &&
            SaveAndTell(options, &creation, &problem);
  if (ok && creation.launch.terminal.valid() && !options.Value("console-socket").empty()) {
    ok = SendTerminal(options.Value("console-socket"), creation.launch.terminal.get(), &problem);
  }
  if (ok && is_run) ok = RunPoststart(&creation, &problem);
  if (!ok) {
    Undo(global, &creation);
    return Complain(global, problem);
  }
  return is_attached ? FinishRun(global, options, &creation) : 0;
}

}  // namespace oci
