// Groups of resctrl: cache and memory bandwidth of a container (kernel doc, arch/x86/resctrl.rst).
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>

#include "runtime/describe_report.h"
#include "runtime/outside.h"
#include "sys/files.h"

namespace runtime {
namespace {

constexpr size_t kMaxMountinfoBytes = 16u << 20;
constexpr size_t kMaxSchemataBytes = 1u << 20;

// The kernel says more than an errno in info/last_cmd_status; "ok" means that it did not.
bool FailWrite(const std::string& resctrl, const std::string& doing, const sys::Failure& failure,
               Problem* problem) {
  *problem = DescribeFailure(Step::kIntelRdt, doing, failure);
  auto status = sys::ReadFileAt(AT_FDCWD, (resctrl + "/info/last_cmd_status").c_str(), 4096);
  if (!status || *status == "ok\n" || status->empty()) return false;
  problem->message += " (" + status->substr(0, status->find('\n')) + ")";
  return false;
}

bool Refuse(const char* path, const std::string& message, Problem* problem) {
  *problem = DescribeSpecError({path, message});
  return false;
}

// A line without blanks, "L3:0=00ff;1=ff" with numbers without leading zeros.
std::string Normal(std::string_view line) {
  std::string text;
  for (const char c : line) {
    if (c == ' ' || c == '\t' || c == '\r') continue;
    if (c == '0' && !text.empty() && text.back() == '=') continue;
    if ((c == ';' || c == '\n') && !text.empty() && text.back() == '=') text += '0';
    text += c;
  }
  if (!text.empty() && text.back() == '=') text += '0';
  return text;
}

// Calls each(part) for the parts between separators that are not empty.
template <typename Each>
void Split(std::string_view text, char separator, Each each) {
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end != 0) each(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// Whether every domain that `asked` names has that value in `present`, the schemata file.
bool Matches(const char* asked, const std::string& present) {
  bool matches = true;
  Split(asked, '\n', [&](std::string_view line) {
    const std::string wanted = Normal(line);
    const size_t colon = wanted.find(':');
    if (colon == std::string::npos) return void(matches = false);
    std::string found;
    Split(present, '\n', [&](std::string_view other) {
      const std::string text = Normal(other);
      if (text.compare(0, colon + 1, wanted, 0, colon + 1) == 0) found = ";" + text.substr(colon + 1) + ";";
    });
    Split(std::string_view(wanted).substr(colon + 1), ';', [&](std::string_view domain) {
      if (found.find(";" + std::string(domain) + ";") == std::string::npos) matches = false;
    });
  });
  return matches;
}

bool WriteSchemata(const IntelRdtSpec& spec, const std::string& resctrl, const std::string& group,
                   Problem* problem) {
  const auto write = [&](const char* path, const std::string& line) {
    auto written = sys::WriteFileAt(AT_FDCWD, (group + "/schemata").c_str(), line + "\n");
    return written || FailWrite(resctrl, std::string(path) + ": write " + Quote(group + "/schemata") + " value " +
                                             Quote(line), written.failure(), problem);
  };
  if (spec.l3_cache_schema[0] != '\0' && !write("linux.intelRdt.l3CacheSchema", spec.l3_cache_schema)) return false;
  if (spec.mem_bw_schema[0] != '\0' && !write("linux.intelRdt.memBwSchema", spec.mem_bw_schema)) return false;
  for (const char* line : spec.schemata) {
    if (!write("linux.intelRdt.schemata", line)) return false;
  }
  return true;
}

bool CheckExisting(const IntelRdtSpec& spec, const std::string& group, Problem* problem) {
  if (spec.l3_cache_schema[0] == '\0' && spec.mem_bw_schema[0] == '\0') return true;
  auto present = sys::ReadFileAt(AT_FDCWD, (group + "/schemata").c_str(), kMaxSchemataBytes);
  if (!present) {
    *problem = DescribeFailure(Step::kIntelRdt, "read " + Quote(group + "/schemata"), present.failure());
    return false;
  }
  if (!Matches(spec.l3_cache_schema, *present)) {
    return Refuse("linux.intelRdt.l3CacheSchema", "differs from what group " + Quote(group) + " has", problem);
  }
  if (!Matches(spec.mem_bw_schema, *present)) {
    return Refuse("linux.intelRdt.memBwSchema", "differs from what group " + Quote(group) + " has", problem);
  }
  return true;
}

bool EnterControlGroup(const IntelRdtSpec& spec, const std::string& resctrl, const std::string& group,
                       Outside* outside, Problem* problem) {
  const bool has_schemata =
      spec.l3_cache_schema[0] != '\0' || spec.mem_bw_schema[0] != '\0' || !spec.schemata.empty();
  struct stat status;
  const bool exists = ::stat(group.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
  if (!exists && spec.clos_id[0] != '\0' && !has_schemata) {
    return Refuse("linux.intelRdt.closID", "names group " + Quote(group) + ", which does not exist", problem);
  }
  if (exists && spec.clos_id[0] != '\0' && !CheckExisting(spec, group, problem)) return false;
  if (!exists) {
    if (::mkdir(group.c_str(), 0755) < 0) {
      return FailWrite(resctrl, "linux.intelRdt: make group " + Quote(group), sys::FailedWithErrno("mkdir"), problem);
    }
    // One that has a name of its own is shared, and stays.
    if (spec.clos_id[0] == '\0') outside->groups.push_back(group);
  }
  if (WriteSchemata(spec, resctrl, group, problem)) return true;
  if (!exists && spec.clos_id[0] != '\0') ::rmdir(group.c_str());
  return false;
}

bool AddTask(const std::string& resctrl, const std::string& group, pid_t pid, Problem* problem) {
  auto written = sys::WriteFileAt(AT_FDCWD, (group + "/tasks").c_str(), std::to_string(pid));
  return written || FailWrite(resctrl, "linux.intelRdt: write " + Quote(group + "/tasks"), written.failure(), problem);
}

bool Enter(const IntelRdtSpec& spec, const std::string& resctrl, const std::string& id, pid_t pid,
           Outside* outside, Problem* problem) {
  const std::string group = strcmp(spec.clos_id, "/") == 0 ? resctrl
                            : resctrl + "/" + (spec.clos_id[0] != '\0' ? std::string(spec.clos_id) : id);
  if (!EnterControlGroup(spec, resctrl, group, outside, problem) || !AddTask(resctrl, group, pid, problem)) {
    return false;
  }
  if (!spec.has_monitoring) return true;
  const std::string monitoring = group + "/mon_groups/" + id;
  if (::mkdir(monitoring.c_str(), 0755) < 0) {
    return FailWrite(resctrl, "linux.intelRdt.enableMonitoring: make group " + Quote(monitoring),
                     sys::FailedWithErrno("mkdir"), problem);
  }
  outside->groups.push_back(monitoring);
  return AddTask(resctrl, monitoring, pid, problem);
}

}  // namespace

std::string FindResctrl() {
  auto text = sys::ReadFileAt(AT_FDCWD, "/proc/self/mountinfo", kMaxMountinfoBytes);
  std::string path;
  if (!text) return path;
  Split(*text, '\n', [&](std::string_view line) {
    const size_t type = line.find(" - resctrl ");
    if (type == line.npos || !path.empty()) return;
    for (int field = 0; field < 4; field++) line.remove_prefix(line.find(' ') + 1);
    path = std::string(line.substr(0, line.find(' ')));
  });
  return path;
}

bool EnterRdtGroups(const IntelRdtSpec& spec, const std::string& resctrl, const std::string& id, pid_t pid,
                    Outside* outside, Problem* problem) {
  if (Enter(spec, resctrl, id, pid, outside, problem)) return true;
  RemoveRdtGroups(outside->groups);
  outside->groups.clear();
  return false;
}

bool JoinRdtGroups(const Spec& spec, const std::string& id, Problem* problem) {
  const IntelRdtSpec& rdt = spec.intel_rdt;
  if (!rdt.present) return true;
  const std::string resctrl = FindResctrl();
  const std::string group = strcmp(rdt.clos_id, "/") == 0 ? resctrl
                            : resctrl + "/" + (rdt.clos_id[0] != '\0' ? std::string(rdt.clos_id) : id);
  return AddTask(resctrl, group, ::getpid(), problem) &&
         (!rdt.has_monitoring || AddTask(resctrl, group + "/mon_groups/" + id, ::getpid(), problem));
}

void RemoveRdtGroups(const std::vector<std::string>& groups) {
  for (size_t i = groups.size(); i-- > 0;) ::rmdir(groups[i].c_str());
}

}  // namespace runtime
