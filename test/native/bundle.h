// A bundle with busybox in a temporary directory, and running it: for tests on the real kernel.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "runtime/container.h"
#include "sys/files.h"
#include "sys/process.h"

namespace fs = std::filesystem;

namespace {

inline bool CanRun() {
  if (geteuid() == 0 && access("/bin/busybox", X_OK) == 0) return true;
  MESSAGE("skipped: needs root and busybox-static");
  return false;
}

class Bundle {
 public:
  Bundle() {
    char path[] = "/tmp/minke-native-test-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    directory = path;
    for (const char* name : {"bin", "proc", "dev", "tmp", "etc"}) {
      fs::create_directories(directory + "/rootfs/" + name);
    }
    fs::copy_file("/bin/busybox", directory + "/rootfs/bin/busybox");
    for (const char* name : {"sh", "cat", "id", "stat", "ls", "sleep", "grep"}) {
      fs::create_symlink("busybox", directory + "/rootfs/bin/" + name);
    }
  }
  ~Bundle() { fs::remove_all(directory); }

  // Members of process, of mounts and of linux besides the usual ones, each with its comma.
  void Write(const std::string& command, const std::string& process = "",
             const std::string& mounts = "", const std::string& linux_rest = "",
             const std::string& namespaces = "") {
    const std::string config =
        R"({"ociVersion":"1.3.0","root":{"path":"rootfs"},"process":{"cwd":"/","env":["PATH=/bin"],
            "args":["sh","-c",")" + command + "\"]" + process +
        R"(},
            "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                      {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]},
                      {"destination":"/dev/pts","type":"devpts","source":"devpts",
                       "options":["newinstance","ptmxmode=0666","mode=0620"]})" + mounts + R"(],
            "linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"},{"type":"uts"})" +
        namespaces + "]" + linux_rest + "}}";
    REQUIRE(sys::WriteAtomically(AT_FDCWD, (directory + "/config.json").c_str(), config, 0600,
                                 false).ok());
  }

  std::string directory;
};

struct Outcome {
  bool is_started = false;
  runtime::Problem problem;
  std::string output;
  int code = -1;
};

[[maybe_unused]] inline Outcome Run(const Bundle& bundle, std::optional<runtime::OverlayRoot> overlay = {},
            const std::string& cgroup = "") {
  Outcome outcome;
  int pipe_fds[2];
  REQUIRE(pipe2(pipe_fds, O_CLOEXEC) == 0);
  runtime::LaunchRequest request;
  request.bundle = bundle.directory;
  request.overlay = std::move(overlay);
  request.cgroup = cgroup;
  request.id = "test";
  request.stdio[1] = pipe_fds[1];
  request.stdio[2] = pipe_fds[1];
  runtime::Launch launch;
  outcome.is_started = runtime::StartContainer(request, &launch, &outcome.problem) &&
                       runtime::FinishLaunch(&launch, &outcome.problem);
  close(pipe_fds[1]);
  if (launch.terminal.valid()) {
    auto text = sys::ReadAll(launch.terminal.get(), 1 << 16);
  }
  auto text = sys::ReadAll(pipe_fds[0], 1 << 20);
  if (text) outcome.output = *text;
  close(pipe_fds[0]);
  if (launch.pidfd.valid()) {
    auto status = sys::waitid_pidfd(launch.pidfd.get(), 0, nullptr);
    if (status) outcome.code = status->signal != 0 ? 128 + status->signal : status->code;
  }
  return outcome;
}


// A cgroup of the test's own, or skipped where none can be made.
class Cgroup {
 public:
  Cgroup() {
    const bool is_pure = access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0;
    const std::string mount = is_pure ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";
    path = mount + "/minke-native-test-" + std::to_string(getpid());
    if (mkdir(path.c_str(), 0755) == 0) return;
    MESSAGE("skipped: needs a writable cgroup2 mount");
    path.clear();
  }
  ~Cgroup() {
    if (!path.empty()) rmdir(path.c_str());
  }
  std::string Read(const char* file) const {
    auto text = sys::ReadFileAt(AT_FDCWD, (path + "/" + file).c_str(), 4096);
    return text ? *text : "";
  }
  bool HasController(const char* name) const {
    return (" " + Read("cgroup.controllers")).find(std::string(" ") + name) != std::string::npos;
  }

  std::string path;
};

}  // namespace
