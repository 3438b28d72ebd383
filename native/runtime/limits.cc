#include "runtime/limits.h"

#include <errno.h>

#include <string_view>

#include "runtime/describe_report.h"
#include "sys/files.h"

namespace runtime {
namespace {

constexpr size_t kControllersBytes = 4096;

std::string ControllerOf(const ResourceWrite& write) {
  if (write.controller[0] != '\0') return write.controller;
  return write.file.substr(0, write.file.find('.'));
}

bool HasWord(std::string_view text, std::string_view word) {
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    const bool starts = at == 0 || text[at - 1] == ' ';
    const size_t end = at + word.size();
    if (starts && (end == text.size() || text[end] == ' ' || text[end] == '\n')) return true;
  }
  return false;
}

bool Refuse(const ResourceWrite& write, const std::string& doing, const sys::Failure& failure,
            Problem* problem) {
  *problem = DescribeFailure(Step::kLimits, doing, failure);
  problem->json_path = write.json_path;
  return false;
}

// What to say of the file system's answer, where the limit is one that holds without the file:
// no swap accounting means no swap is taken from the container, and none is given either.
bool HoldsWithout(const ResourceWrite& write, int error) {
  return error == ENOENT && write.file == "memory.swap.max" &&
         (write.value == "max" || write.value == "0");
}

// No such file, or none for this device (blk-cgroup.c, blkg_conf_prep: EOPNOTSUPP where its queue
// has not this policy). Of io.weight and io.bfq.weight both may be there, and a device heeds one.
bool IsUnknownHere(int error) { return error == ENOENT || error == EOPNOTSUPP; }

bool WriteOne(const ResourceWrite& write, int cgroup, Problem* problem) {
  auto written = sys::WriteFileAt(cgroup, write.file.c_str(), write.value);
  if (!write.other_file.empty() && (written || IsUnknownHere(written.failure().error))) {
    auto other = sys::WriteFileAt(cgroup, write.other_file.c_str(), write.other_value);
    if (other || (written && IsUnknownHere(other.failure().error))) return true;
    if (!IsUnknownHere(other.failure().error)) written = other;
  }
  if (written || HoldsWithout(write, written.failure().error)) return true;
  return Refuse(write,
                std::string(write.json_path) + ": write \"" + write.file + "\" value \"" +
                    write.value + "\"",
                written.failure(), problem);
}

}  // namespace

std::set<std::string> ControllersOf(const std::vector<ResourceWrite>& writes) {
  std::set<std::string> needed;
  for (const ResourceWrite& write : writes) {
    std::string controller = ControllerOf(write);
    if (controller != "cgroup") needed.insert(std::move(controller));
  }
  return needed;
}

bool WriteLimits(const std::vector<ResourceWrite>& writes, int cgroup, Problem* problem) {
  if (writes.empty()) return true;
  auto present = sys::ReadFileAt(cgroup, "cgroup.controllers", kControllersBytes);
  if (!present) return Refuse(writes[0], "read \"cgroup.controllers\"", present.failure(), problem);
  for (const ResourceWrite& write : writes) {
    const std::string controller = ControllerOf(write);
    if (controller == "cgroup" || HasWord(*present, controller)) continue;
    Refuse(write, std::string(write.json_path) + ": write \"" + write.file + "\"",
           {"openat", ENOENT}, problem);
    problem->message += " (cgroup controller \"" + controller + "\" is missing)";
    return false;
  }
  for (const ResourceWrite& write : writes) {
    if (!WriteOne(write, cgroup, problem)) return false;
  }
  return true;
}

}  // namespace runtime
