// Several small operations on files in one trip to the pool: each trip costs the event loop a
// wake-up of another thread and one back, which is more than a mkdir.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/files.h"
#include "sys/tree.h"

namespace addon {
namespace {

enum Kind {
  kMakeDirectory = 0,
  kMakeDirectories = 1,
  kWrite = 2,
  kWriteExisting = 3,
  kCopy = 4,
  kRecord = 5,
  kRetire = 6,
  kRemoveFile = 7,
  kRemoveDirectory = 8,
  kRemoveTree = 9,
  kRemoveCgroup = 10,
};

constexpr size_t kMaxCopiedBytes = 1 << 20;

struct Step {
  int kind;
  std::string path;
  mode_t mode;
  std::string bytes;
  std::string spare;
};

// Which step failed: -1 for none. And whether the last record's spare is there again.
struct Outcome {
  int failed = -1;
  bool has_spare = false;
  sys::Failure failure{"", 0};
};

sys::Result<void> MakeDirectory(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) < 0) return sys::FailedWithErrno("mkdir");
  return {};
}

sys::Result<void> MakeDirectories(const std::string& path, mode_t mode) {
  sys::Result<void> made = MakeDirectory(path, mode);
  if (made) return made;
  if (made.failure().error == EEXIST) {
    struct stat status;
    if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return {};
    return made;
  }
  const size_t slash = path.rfind('/');
  if (made.failure().error != ENOENT || slash == std::string::npos || slash == 0) return made;
  sys::Result<void> parents = MakeDirectories(path.substr(0, slash), mode);
  return parents ? MakeDirectory(path, mode) : parents;
}

// O_TRUNC without O_EXCL: what a step writes is read by nobody before the batch ends.
sys::Result<void> Write(const Step& step, std::string_view bytes) {
  sys::Result<sys::UniqueFd> file =
      sys::open_at(AT_FDCWD, step.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, step.mode);
  if (!file) return file.failure();
  return sys::WriteAll(file->get(), bytes);
}

// `bytes` is the path to copy from: what cannot be read there is taken for empty.
sys::Result<void> Copy(const Step& step) {
  sys::Result<std::string> text = sys::ReadFileAt(AT_FDCWD, step.bytes.c_str(), kMaxCopiedBytes);
  return Write(step, text ? *text : std::string());
}

sys::Result<void> WriteRecord(const Step& step, bool* has_spare) {
  sys::Result<bool> written =
      sys::WriteThroughSpare(AT_FDCWD, step.path.c_str(), step.bytes, step.mode, step.spare.c_str());
  if (!written) return written.failure();
  *has_spare = *written;
  return {};
}

sys::Result<void> Retire(const Step& step, bool* has_spare) {
  sys::Result<void> retired = sys::RetireToSpare(AT_FDCWD, step.path.c_str(), step.spare.c_str());
  *has_spare = retired.ok();
  if (!retired && retired.failure().error == ENOENT) return {};
  return retired;
}

sys::Result<void> RemoveFile(const Step& step) {
  if (::unlink(step.path.c_str()) < 0 && errno != ENOENT) return sys::FailedWithErrno("unlink");
  return {};
}

sys::Result<void> RemoveDirectory(const Step& step) {
  if (::rmdir(step.path.c_str()) < 0 && errno != ENOENT) return sys::FailedWithErrno("rmdir");
  return {};
}

sys::Result<void> RemoveCgroup(const Step& step) {
  sys::Result<bool> gone = sys::RemoveCgroups(step.path.c_str());
  if (!gone) return gone.failure();
  if (!*gone) return sys::Failure{"rmdir", EBUSY};
  return {};
}

sys::Result<void> Run(const Step& step, bool* has_spare) {
  switch (step.kind) {
    case kMakeDirectory:
      return MakeDirectory(step.path, step.mode);
    case kMakeDirectories:
      return MakeDirectories(step.path, step.mode);
    case kWrite:
      return Write(step, step.bytes);
    case kWriteExisting:
      return sys::WriteFileAt(AT_FDCWD, step.path.c_str(), step.bytes);
    case kCopy:
      return Copy(step);
    case kRecord:
      return WriteRecord(step, has_spare);
    case kRetire:
      return Retire(step, has_spare);
    case kRemoveFile:
      return RemoveFile(step);
    case kRemoveDirectory:
      return RemoveDirectory(step);
    case kRemoveTree:
      return sys::RemoveTree(step.path.c_str());
    case kRemoveCgroup:
      return RemoveCgroup(step);
    default:
      return sys::Failure{"runFileSteps", EINVAL};
  }
}

// The failed step's number goes with the error, so that src/native can name its path.
Napi::Value OutcomeToValue(Napi::Env env, Outcome& outcome) {
  if (outcome.failed < 0) return Napi::Boolean::New(env, outcome.has_spare);
  Napi::Error error = ToError(env, outcome.failure);
  error.Set("step", Napi::Number::New(env, outcome.failed));
  error.Set("hasSpare", Napi::Boolean::New(env, outcome.has_spare));
  return error.Value();
}

// runFileSteps(...(kind, path, mode, bytes, spare)) -> Promise<hasSpare | Error with `step` and `hasSpare`>: in
// order, up to the first that fails. Nothing is undone.
Napi::Value RunFileSteps(const Napi::CallbackInfo& info) {
  std::vector<Step> steps;
  steps.reserve(info.Length() / 5);
  for (size_t at = 0; at + 4 < info.Length(); at += 5) {
    Step step{IntArgument(info, at), StringArgument(info, at + 1), static_cast<mode_t>(IntArgument(info, at + 2)), "", ""};
    if (info[at + 3].IsBuffer()) {
      const Napi::Buffer<char> buffer = info[at + 3].As<Napi::Buffer<char>>();
      step.bytes.assign(buffer.Data(), buffer.Length());
    } else if (info[at + 3].IsString()) {
      step.bytes = StringArgument(info, at + 3);
    }
    if (info[at + 4].IsString()) step.spare = StringArgument(info, at + 4);
    steps.push_back(std::move(step));
  }
  return SettleOnPool<Outcome>(
      info.Env(),
      [steps]() -> sys::Result<Outcome> {
        Outcome outcome;
        for (size_t i = 0; i < steps.size(); ++i) {
          sys::Result<void> done = Run(steps[i], &outcome.has_spare);
          if (done) continue;
          outcome.failed = static_cast<int>(i);
          outcome.failure = done.failure();
          break;
        }
        return outcome;
      },
      OutcomeToValue);
}

// removeTree(path) -> Promise
Napi::Value RemoveTree(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  return SettleOnPool<Nothing>(
      info.Env(),
      [path]() -> sys::Result<Nothing> {
        sys::Result<void> removed = sys::RemoveTree(path.c_str());
        if (!removed) return removed.failure();
        return Nothing{};
      },
      NothingToValue);
}

// removeCgroups(path) -> Promise<bool>: false where a process is still in one of them
Napi::Value RemoveCgroups(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  return SettleOnPool<bool>(
      info.Env(), [path]() { return sys::RemoveCgroups(path.c_str()); },
      [](Napi::Env env, bool& gone) -> Napi::Value { return Napi::Boolean::New(env, gone); });
}

}  // namespace

void RegisterFileSteps(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "runFileSteps", RunFileSteps);
  Export(env, exports, "removeTree", RemoveTree);
  Export(env, exports, "removeCgroups", RemoveCgroups);
}

}  // namespace addon
