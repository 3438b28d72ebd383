// Fields of the spec on the real kernel: what a container sees of each.
#include <doctest/doctest.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#include "../test/native/bundle.h"

TEST_CASE("tmpcopyup fills a tmpfs with what the rootfs has there") {
  if (!CanRun()) return;
  Bundle bundle;
  const std::string etc = bundle.directory + "/rootfs/etc";
  fs::create_directories(etc + "/a/b");
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (etc + "/a/b/file").c_str(), "text", 0644, false).ok());
  REQUIRE(chown((etc + "/a/b/file").c_str(), 7, 8) == 0);
  fs::create_symlink("b/file", etc + "/a/link");
  bundle.Write("cat /etc/a/link; stat -c ' %a %u:%g' /etc/a/b/file; echo more >/etc/new; ls /etc", "",
               R"(,{"destination":"/etc","type":"tmpfs","source":"tmpfs","options":["tmpcopyup"]})");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output == "text 644 7:8\na\nnew\n");
  CHECK_FALSE(fs::exists(etc + "/new"));
}

// Ends the program as skipped where the bundles lie on a file system without id mapping, as tmpfs
// is before Linux 6.3. Each case runs in a process of its own (test/native/doctest.test.ts).
static void SkipWithoutIdMapping(const Bundle& bundle, const runtime::Problem& problem) {
  constexpr int kSkipped = 77;
  struct statfs info = {};
  if (problem.syscall != "mount_setattr" || problem.errno_name != "EINVAL") return;
  if (statfs(bundle.directory.c_str(), &info) != 0 || info.f_type != TMPFS_MAGIC) return;
  fs::remove_all(bundle.directory);
  printf("missing: id-mapped mounts of tmpfs (Linux 6.3)\n");
  exit(kSkipped);
}

TEST_CASE("an id-mapped bind mount shows owners through its own mapping") {
  if (!CanRun()) return;
  Bundle bundle;
  const std::string source = bundle.directory + "/source";
  fs::create_directories(source);
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (source + "/f").c_str(), "", 0644, false).ok());
  REQUIRE(chown((source + "/f").c_str(), 5, 6) == 0);
  bundle.Write("stat -c %u:%g /mnt/f", "",
               R"(,{"destination":"/mnt","source":")" + source + R"(","options":["bind","idmap"],
                   "uidMappings":[{"containerID":0,"hostID":1000,"size":100}],
                   "gidMappings":[{"containerID":0,"hostID":2000,"size":100}]})");
  const Outcome outcome = Run(bundle);
  SkipWithoutIdMapping(bundle, outcome.problem);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output == "1005:2006\n");
}

TEST_CASE("an id-mapped bind mount takes the container's mapping where it has none") {
  if (!CanRun()) return;
  Bundle bundle;
  const std::string source = bundle.directory + "/source";
  fs::create_directories(source);
  fs::permissions(bundle.directory, fs::perms::all);
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (source + "/f").c_str(), "", 0644, false).ok());
  bundle.Write("stat -c %u:%g /mnt/f", "",
               R"(,{"destination":"/mnt","source":")" + source + R"(","options":["bind","ridmap"]})",
               R"(,"uidMappings":[{"containerID":0,"hostID":100000,"size":1000}],
                   "gidMappings":[{"containerID":0,"hostID":100000,"size":1000}])",
               R"(,{"type":"user"})");
  fs::create_directories(bundle.directory + "/rootfs/mnt");
  for (const char* name : {"/rootfs", "/rootfs/mnt", "/rootfs/dev", "/rootfs/proc"}) {
    REQUIRE(chown((bundle.directory + name).c_str(), 100000, 100000) == 0);
  }
  const Outcome outcome = Run(bundle);
  SkipWithoutIdMapping(bundle, outcome.problem);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output == "0:0\n");
}

TEST_CASE("memoryPolicy is the policy of the container's process") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("grep -m1 -o 'bind[^ ]*' /proc/self/numa_maps", "", "",
               R"(,"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0"})");
  const Outcome outcome = Run(bundle);
  if (outcome.problem.errno_name == "ENOSYS") return;
  CHECK(outcome.problem.message == "");
  if (access("/proc/self/numa_maps", R_OK) == 0) CHECK(outcome.output.rfind("bind", 0) == 0);
}

TEST_CASE("a failing hook of the child is named by kind, path and status") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("echo ran", "", "", R"(},"hooks":{
      "createContainer":[{"path":"/bin/true"}],
      "startContainer":[{"path":"/bin/sh","args":["sh","-c","exit 9"]}])");
  const Outcome outcome = Run(bundle);
  CHECK_FALSE(outcome.is_started);
  CHECK(outcome.problem.message == "hook startContainer \"/bin/sh\": ended with status 9");
  CHECK(outcome.output == "");
}

TEST_CASE("a child that is killed before execve is not a start") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("true");
  runtime::LaunchRequest request;
  request.bundle = bundle.directory;
  request.id = "test";
  request.wait_for_start = true;
  runtime::Launch launch;
  runtime::Problem problem;
  REQUIRE(runtime::StartContainer(request, &launch, &problem));
  REQUIRE(runtime::FinishLaunch(&launch, &problem));
  REQUIRE(sys::pidfd_send_signal(launch.pidfd.get(), SIGKILL).ok());
  (void)runtime::ReleaseStart(&launch, &problem);
  CHECK_FALSE(runtime::FinishLaunch(&launch, &problem));
  CHECK(problem.message == "the process ended before its command was executed: signal 9");
  (void)sys::waitid_pidfd(launch.pidfd.get(), 0, nullptr).ok();
}

TEST_CASE("unknown system calls of a profile and capabilities the caller lacks are warnings") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("true", "", "", R"(,"seccomp":{"defaultAction":"SCMP_ACT_ALLOW",
      "syscalls":[{"names":["no_such_call"],"action":"SCMP_ACT_ERRNO"}]})");
  runtime::LaunchRequest request;
  request.bundle = bundle.directory;
  request.id = "test";
  runtime::Launch launch;
  runtime::Problem problem;
  REQUIRE(runtime::StartContainer(request, &launch, &problem));
  REQUIRE(launch.warnings.size() == 1);
  CHECK(launch.warnings[0] ==
        "linux.seccomp: ignoring system calls that libseccomp does not know: no_such_call");
  (void)runtime::FinishLaunch(&launch, &problem);
  (void)sys::waitid_pidfd(launch.pidfd.get(), 0, nullptr).ok();
}

TEST_CASE("a new pid namespace in a joined user namespace can mount its proc") {
  if (!CanRun()) return;
  // A user namespace to join, held by a process that sleeps in it.
  Bundle holder;
  const std::string maps = R"(,"uidMappings":[{"containerID":0,"hostID":100000,"size":1000}],
                               "gidMappings":[{"containerID":0,"hostID":100000,"size":1000}])";
  const auto own = [](const Bundle& bundle) {
    fs::permissions(bundle.directory, fs::perms::all);
    for (const char* name : {"/rootfs", "/rootfs/dev", "/rootfs/proc"}) {
      REQUIRE(chown((bundle.directory + name).c_str(), 100000, 100000) == 0);
    }
  };
  own(holder);
  holder.Write("sleep 30", "", "", maps, R"(,{"type":"user"})");
  runtime::LaunchRequest request;
  request.bundle = holder.directory;
  request.id = "holder";
  runtime::Launch launch;
  runtime::Problem problem;
  REQUIRE(runtime::StartContainer(request, &launch, &problem));
  REQUIRE(runtime::FinishLaunch(&launch, &problem));
  Bundle bundle;
  own(bundle);
  bundle.Write("echo $$; cat /proc/self/uid_map", "", "", "",
               R"(,{"type":"user","path":"/proc/)" + std::to_string(launch.pid) + R"(/ns/user"})");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output == "1\n         0     100000       1000\n");
  (void)sys::pidfd_send_signal(launch.pidfd.get(), SIGKILL).ok();
  (void)sys::waitid_pidfd(launch.pidfd.get(), 0, nullptr).ok();
}
