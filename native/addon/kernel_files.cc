// Files that the kernel writes as they are read (/proc, cgroups), many in one trip to the pool:
// figures of a hundred pods are thousands of them, and each costs the kernel microseconds.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/files.h"

namespace addon {
namespace {

constexpr size_t kMostBytes = 4 << 20;  // cgroup.procs has a line for each process
constexpr int kMostLevels = 64;         // of cgroups below a pod's; the kernel has no limit of its own

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

Directory OpenDirectory(const std::string& path) { return {::opendir(path.c_str()), ::closedir}; }

bool IsDots(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

std::vector<std::string> StringArguments(const Napi::CallbackInfo& info) {
  std::vector<std::string> texts;
  texts.reserve(info.Length());
  for (size_t at = 0; at < info.Length(); ++at) texts.push_back(StringArgument(info, at));
  return texts;
}

// What is gone, or cannot be read, has no text: whoever asks counts what there is.
std::optional<std::string> Read(const std::string& path) {
  sys::Result<std::string> text = sys::ReadFileAt(AT_FDCWD, path.c_str(), kMostBytes);
  if (!text) return std::nullopt;
  return std::move(*text);
}

// readKernelFiles(...paths) -> Promise<(string | undefined)[]>
Napi::Value ReadKernelFiles(const Napi::CallbackInfo& info) {
  using Texts = std::vector<std::optional<std::string>>;
  return SettleOnPool<Texts>(
      info.Env(),
      [paths = StringArguments(info)]() -> sys::Result<Texts> {
        Texts texts;
        texts.reserve(paths.size());
        for (const std::string& path : paths) texts.push_back(Read(path));
        return texts;
      },
      [](Napi::Env env, Texts& texts) -> Napi::Value {
        Napi::Array list = Napi::Array::New(env, texts.size());
        for (uint32_t at = 0; at < texts.size(); ++at) {
          if (texts[at]) list.Set(at, Napi::String::New(env, *texts[at]));
        }
        return list;
      });
}

void AddProcesses(const std::string& cgroup, int levels, std::vector<int>* pids) {
  // Of a threaded cgroup nobody can read it (cgroups(7)), and there may still be others below.
  const std::string text = Read(cgroup + "/cgroup.procs").value_or("");
  const char* at = text.c_str();
  for (char* end; *at != '\0'; at = *end == '\n' ? end + 1 : end) {
    const long pid = ::strtol(at, &end, 10);
    if (end == at) break;
    pids->push_back(static_cast<int>(pid));
  }
  const Directory directory = OpenDirectory(cgroup);
  if (!directory || levels == 0) return;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (entry->d_type != DT_DIR || IsDots(entry->d_name)) continue;
    AddProcesses(cgroup + "/" + entry->d_name, levels - 1, pids);
  }
}

// processesBelow(...cgroups) -> Promise<number[][]>: of each and all below it
Napi::Value ProcessesBelow(const Napi::CallbackInfo& info) {
  using Lists = std::vector<std::vector<int>>;
  return SettleOnPool<Lists>(
      info.Env(),
      [cgroups = StringArguments(info)]() -> sys::Result<Lists> {
        Lists lists(cgroups.size());
        for (size_t at = 0; at < cgroups.size(); ++at) AddProcesses(cgroups[at], kMostLevels, &lists[at]);
        return lists;
      },
      [](Napi::Env env, Lists& lists) -> Napi::Value {
        Napi::Array all = Napi::Array::New(env, lists.size());
        for (uint32_t at = 0; at < lists.size(); ++at) {
          Napi::Array pids = Napi::Array::New(env, lists[at].size());
          for (uint32_t i = 0; i < lists[at].size(); ++i) pids.Set(i, Napi::Number::New(env, lists[at][i]));
          all.Set(at, pids);
        }
        return all;
      });
}

struct Descriptors {
  uint32_t all = 0, sockets = 0;
};

Descriptors Count(const std::string& pid) {
  Descriptors counted;
  const Directory directory = OpenDirectory("/proc/" + pid + "/fd");
  if (!directory) return counted;
  constexpr std::string_view kSocket = "socket:";
  while (const dirent* entry = ::readdir(directory.get())) {
    if (IsDots(entry->d_name)) continue;
    ++counted.all;
    char target[kSocket.size()];
    const ssize_t size = ::readlinkat(::dirfd(directory.get()), entry->d_name, target, sizeof target);
    if (size > 0 && std::string_view(target, size) == kSocket) ++counted.sockets;
  }
  return counted;
}

// countDescriptors(...pids) -> Promise<[all, sockets][]>: 0 and 0 of a process that has ended
Napi::Value CountDescriptors(const Napi::CallbackInfo& info) {
  using Counts = std::vector<Descriptors>;
  return SettleOnPool<Counts>(
      info.Env(),
      [pids = StringArguments(info)]() -> sys::Result<Counts> {
        Counts counts;
        counts.reserve(pids.size());
        for (const std::string& pid : pids) counts.push_back(Count(pid));
        return counts;
      },
      [](Napi::Env env, Counts& counts) -> Napi::Value {
        Napi::Array all = Napi::Array::New(env, counts.size());
        for (uint32_t at = 0; at < counts.size(); ++at) {
          Napi::Array pair = Napi::Array::New(env, 2);
          pair.Set(0u, Napi::Number::New(env, counts[at].all));
          pair.Set(1u, Napi::Number::New(env, counts[at].sockets));
          all.Set(at, pair);
        }
        return all;
      });
}

}  // namespace

void RegisterKernelFiles(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "readKernelFiles", ReadKernelFiles);
  Export(env, exports, "processesBelow", ProcessesBelow);
  Export(env, exports, "countDescriptors", CountDescriptors);
}

}  // namespace addon
