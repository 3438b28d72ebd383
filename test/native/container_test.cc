// Containers on the real kernel: what the child does, and what it refuses. Needs root; says so
// and passes over where there is none. The rootfs is busybox in a temporary directory.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "../test/native/bundle.h"
#include "runtime/container.h"
#include "runtime/seccomp.h"
#include "sys/files.h"
#include "sys/process.h"

TEST_CASE("a container runs its command as pid 1 with its exit code") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("echo $$; exit 7");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output == "1\n");
  CHECK(outcome.code == 7);
}

TEST_CASE("a command that is not there fails at step exec with ENOENT") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("true", R"(,"args":["nosuch"])");
  // The first "args" wins in the reader, so the program is exchanged instead.
  fs::remove(bundle.directory + "/rootfs/bin/sh");
  const Outcome outcome = Run(bundle);
  CHECK_FALSE(outcome.is_started);
  CHECK(outcome.problem.step == "exec");
  CHECK(outcome.problem.errno_name == "ENOENT");
  CHECK(outcome.code == 127);
}

TEST_CASE("a command that is not executable fails at step exec with EACCES") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("true");
  fs::remove(bundle.directory + "/rootfs/bin/sh");
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (bundle.directory + "/rootfs/bin/sh").c_str(), "x", 0644,
                               false).ok());
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.step == "exec");
  CHECK(outcome.problem.errno_name == "EACCES");
}

TEST_CASE("no descriptor of the caller is open in the container") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("ls /proc/self/fd");
  const int leak = dup(0);  // on purpose without close-on-exec
  CHECK(Run(bundle).output == "0\n1\n2\n3\n");  // 3 is the directory that ls reads
  close(leak);
}

TEST_CASE("user, groups, umask and capabilities are what the spec says") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("id -u; id -G; umask; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status",
               R"(,"user":{"uid":1000,"gid":1001,"umask":63,"additionalGids":[5]},
                  "noNewPrivileges":true,"capabilities":{"bounding":["CAP_KILL","CAP_CHOWN"],
                  "permitted":["CAP_KILL"],"effective":["CAP_KILL"],"inheritable":["CAP_KILL"],
                  "ambient":["CAP_KILL"]})");
  CHECK(Run(bundle).output ==
        "1000\n1001 5\n0077\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000021\n"
        "NoNewPrivs:\t1\n");
}

TEST_CASE("masked paths read empty and read-only paths refuse writes") {
  if (!CanRun()) return;
  Bundle bundle;
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (bundle.directory + "/rootfs/etc/secret").c_str(), "s",
                               0644, false).ok());
  fs::create_directories(bundle.directory + "/rootfs/etc/hidden/deep");
  bundle.Write("cat /etc/secret; ls /etc/hidden; echo x > /tmp/f || echo refused", "", "",
               R"(,"maskedPaths":["/etc/secret","/etc/hidden","/not/there"],
                  "readonlyPaths":["/tmp"])");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.output == "sh: can't create /tmp/f: Read-only file system\nrefused\n");
}

TEST_CASE("a destination that is a link out of the rootfs stays inside") {
  if (!CanRun()) return;
  Bundle bundle;
  fs::create_symlink("/../../../../tmp/minke-escape/x", bundle.directory + "/rootfs/data");
  fs::create_directories(bundle.directory + "/volume");
  bundle.Write("ls -d /tmp/minke-escape/x", "",
               R"(,{"destination":"/data","type":"bind","source":"volume","options":["rbind"]})");
  CHECK(Run(bundle).output == "/tmp/minke-escape/x\n");
  CHECK_FALSE(fs::exists("/tmp/minke-escape"));
}

TEST_CASE("a file is bound on a destination that is made for it") {
  if (!CanRun()) return;
  Bundle bundle;
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (bundle.directory + "/hosts").c_str(), "h", 0644,
                               false).ok());
  bundle.Write("cat /run/deep/hosts; echo x > /run/deep/hosts || echo refused", "",
               R"(,{"destination":"/run/deep/hosts","type":"bind","source":"hosts",
                    "options":["bind","ro"]})");
  CHECK(Run(bundle).output == "hsh: can't create /run/deep/hosts: Read-only file system\nrefused\n");
}

TEST_CASE("a namespace path of another type is refused at step namespace") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("true", "", "", "", R"(,{"type":"network","path":"/proc/self/ns/uts"})");
  const Outcome outcome = Run(bundle);
  CHECK_FALSE(outcome.is_started);
  CHECK(outcome.problem.step == "namespace");
}

TEST_CASE("an overlay root takes writes in its upper directory and not in the lowers") {
  if (!CanRun()) return;
  Bundle bundle;
  for (const char* name : {"upper", "work", "second"}) {
    fs::create_directories(bundle.directory + "/" + name);
  }
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (bundle.directory + "/second/two").c_str(), "2", 0644,
                               false).ok());
  bundle.Write("cat /two; echo new > /etc/new");
  runtime::OverlayRoot overlay;
  overlay.lower = {bundle.directory + "/second", bundle.directory + "/rootfs"};
  overlay.upper = bundle.directory + "/upper";
  overlay.work = bundle.directory + "/work";
  CHECK(Run(bundle, overlay).output == "2");
  CHECK(fs::exists(bundle.directory + "/upper/etc/new"));
  CHECK_FALSE(fs::exists(bundle.directory + "/rootfs/etc/new"));
}

TEST_CASE("an overlay root whose disk is full is refused, not made read-only") {
  if (!CanRun()) return;
  Bundle bundle;
  const std::string disk = bundle.directory + "/disk";
  fs::create_directories(disk);
  // Room for its root and the two directories.
  REQUIRE(mount("tmpfs", disk.c_str(), "tmpfs", 0, "nr_inodes=3") == 0);
  for (const char* name : {"/upper", "/work"}) fs::create_directories(disk + name);
  bundle.Write("true");
  runtime::OverlayRoot overlay;
  overlay.lower = {bundle.directory + "/rootfs"};
  overlay.upper = disk + "/upper";
  overlay.work = disk + "/work";
  const Outcome outcome = Run(bundle, overlay);
  CHECK(umount2(disk.c_str(), MNT_DETACH) == 0);
  CHECK_FALSE(outcome.is_started);
  CHECK(outcome.problem.step == "rootfs");
  CHECK(outcome.problem.errno_name == "ENOSPC");
}

TEST_CASE("a user namespace maps root and still has its devices") {
  if (!CanRun()) return;
  Bundle bundle;
  fs::permissions(bundle.directory, fs::perms::all);
  bundle.Write("id -u; cat /proc/self/uid_map; echo x > /dev/null && echo written", "", "",
               R"(,"uidMappings":[{"containerID":0,"hostID":200000,"size":1000}],
                  "gidMappings":[{"containerID":0,"hostID":200000,"size":1000}])",
               R"(,{"type":"user"})");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output == "0\n         0     200000       1000\nwritten\n");
}

TEST_CASE("a seccomp rule answers its errno and unknown names are passed over") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("busybox mkdir /tmp/d", "", "",
               R"(,"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                  {"names":["mkdir","mkdirat","no_such_call"],"action":"SCMP_ACT_ERRNO",
                   "errnoRet":95}]})");
  CHECK(Run(bundle).output == "mkdir: can't create directory '/tmp/d': Operation not supported\n");
}

TEST_CASE("a filter that refuses what the runtime itself calls binds the command alone") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("busybox pwd; grep -E 'CapEff|Seccomp:' /proc/self/status",
               R"(,"user":{"uid":1000,"gid":1000},"capabilities":{"bounding":["CAP_KILL"],
                  "permitted":["CAP_KILL"],"effective":["CAP_KILL"],"inheritable":["CAP_KILL"],
                  "ambient":["CAP_KILL"]})",
               "",
               R"(,"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getcwd",
                  "chdir","fchdir","setgroups","setresuid","setresgid","umask","capget","prctl",
                  "sendmsg","close_range"],"action":"SCMP_ACT_ERRNO"}]})");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.output ==
        "pwd: getcwd: Operation not permitted\nCapEff:\t0000000000000020\nSeccomp:\t2\n");
}

TEST_CASE("a terminal comes from the container's own devpts") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("exit 0", R"(,"terminal":true)");
  const Outcome outcome = Run(bundle);
  CHECK(outcome.problem.message == "");
  CHECK(outcome.code == 0);
}

TEST_CASE("exec joins the container and is the caller's child") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("sleep 20");
  runtime::LaunchRequest request;
  request.bundle = bundle.directory;
  runtime::Launch container;
  runtime::Problem problem;
  REQUIRE(runtime::StartContainer(request, &container, &problem));
  REQUIRE(runtime::FinishLaunch(&container, &problem));
  runtime::ExecRequest exec;
  exec.container_pid = container.pid;
  exec.container_pidfd = container.pidfd.get();
  exec.process_json = R"json({"args":["sh","-c","test -d /proc/1 && exit $(($$ < 10 ? 42 : 1))"],
                          "cwd":"/","env":["PATH=/bin"]})json";
  runtime::Launch process;
  const bool is_started = runtime::StartExec(exec, &process, &problem) &&
                          runtime::FinishLaunch(&process, &problem);
  CHECK_MESSAGE(is_started, problem.message);
  if (process.pidfd.valid()) {
    auto status = sys::waitid_pidfd(process.pidfd.get(), 0, nullptr);
    CHECK(status->code == 42);
  }
  (void)sys::pidfd_send_signal(container.pidfd.get(), SIGKILL).ok();
  (void)sys::waitid_pidfd(container.pidfd.get(), 0, nullptr).ok();
}

TEST_CASE("a child that waits for its start goes on when released") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("exit 5");
  runtime::LaunchRequest request;
  request.bundle = bundle.directory;
  request.wait_for_start = true;
  runtime::Launch launch;
  runtime::Problem problem;
  REQUIRE(runtime::StartContainer(request, &launch, &problem));
  REQUIRE(runtime::FinishLaunch(&launch, &problem));
  CHECK(launch.waiting);
  REQUIRE(runtime::ReleaseStart(&launch, &problem));
  REQUIRE(runtime::FinishLaunch(&launch, &problem));
  auto status = sys::waitid_pidfd(launch.pidfd.get(), 0, nullptr);
  CHECK(status->code == 5);
}

TEST_CASE("StartContainer writes limits into the cgroup it was given") {
  if (!CanRun()) return;
  const Cgroup cgroup;
  if (cgroup.path.empty()) return;
  Bundle bundle;
  bundle.Write("true", "", "", R"(,"resources":{"unified":{"cgroup.max.depth":"3"}})");
  const Outcome outcome = Run(bundle, {}, cgroup.path);
  CHECK(outcome.problem.message == "");
  CHECK(cgroup.Read("cgroup.max.depth") == "3\n");
}

TEST_CASE("a limit takes effect, or the problem names the controller that is missing") {
  if (!CanRun()) return;
  const Cgroup cgroup;
  if (cgroup.path.empty()) return;
  struct Limit {
    const char *controller, *resources, *file, *text;
  };
  for (const Limit& limit : {
           Limit{"memory", R"("memory":{"limit":67108864})", "memory.max", "67108864\n"},
           Limit{"pids", R"("pids":{"limit":77})", "pids.max", "77\n"},
           Limit{"cpu", R"("cpu":{"quota":50000,"period":100000})", "cpu.max", "50000 100000\n"},
           Limit{"hugetlb", R"("hugepageLimits":[{"pageSize":"2MB","limit":4194304}])",
                 "hugetlb.2MB.max", "4194304\n"},
       }) {
    INFO(limit.controller);
    Bundle bundle;
    bundle.Write("true", "", "", std::string(",\"resources\":{") + limit.resources + "}");
    const Outcome outcome = Run(bundle, {}, cgroup.path);
    if (cgroup.HasController(limit.controller)) {
      CHECK(outcome.problem.message == "");
      CHECK(cgroup.Read(limit.file) == limit.text);
    } else {
      CHECK_FALSE(outcome.is_started);
      CHECK(outcome.problem.step == "limits");
      CHECK(outcome.problem.message.find("cgroup controller \"" + std::string(limit.controller) +
                                         "\" is missing") != std::string::npos);
    }
  }
}

TEST_CASE("the device policy refuses what no rule allows and gives the default devices") {
  if (!CanRun()) return;
  const Cgroup cgroup;
  if (cgroup.path.empty()) return;
  Bundle bundle;
  bundle.Write("busybox mknod /tmp/k c 1 11; cat /tmp/k; cat /dev/null && echo null",
               R"(,"capabilities":{"bounding":["CAP_MKNOD"],"permitted":["CAP_MKNOD"],
                  "effective":["CAP_MKNOD"]})", "",
               R"(,"resources":{"devices":[{"allow":false,"access":"rwm"}]})");
  CHECK(Run(bundle, {}, cgroup.path).output ==
        "cat: can't open '/tmp/k': Operation not permitted\nnull\n");
}

TEST_CASE("a failing createRuntime hook ends the child before its command runs") {
  if (!CanRun()) return;
  Bundle bundle;
  bundle.Write("echo ran", "", "", R"(},"hooks":{"createRuntime":[{"path":"/bin/sh",
                  "args":["sh","-c","exit 3"]}])");
  const Outcome outcome = Run(bundle);
  CHECK_FALSE(outcome.is_started);
  CHECK(outcome.problem.step == "hook");
  CHECK(outcome.output == "");
  CHECK(outcome.code == 125);
}

TEST_CASE("a compiled filter is kept and taken again, and a damaged or foreign file is not") {
  Bundle bundle;
  const std::string cache = bundle.directory + "/cache";
  const auto spec_with = [](uint32_t errno_value) {
    runtime::SeccompSpec spec;
    spec.present = true;
    spec.default_action = SCMP_ACT_ALLOW;
    spec.rules.push_back({{"mkdir", "no_such_call"}, SCMP_ACT_ERRNO(errno_value), {}});
    return spec;
  };
  runtime::Problem problem;
  runtime::SeccompFilter made, taken, other;
  REQUIRE(runtime::CachedSeccomp(spec_with(1), cache, &made, &problem));
  CHECK(std::distance(fs::directory_iterator(cache), {}) == 1);
  const fs::path file = fs::directory_iterator(cache)->path();
  const auto same = [](const runtime::SeccompFilter& a, const runtime::SeccompFilter& b) {
    return a.program.size() == b.program.size() && a.unknown_names == b.unknown_names &&
           memcmp(a.program.data(), b.program.data(), a.program.size() * sizeof(sock_filter)) == 0;
  };
  // Another profile in between: the one in memory is not the one that is asked for.
  REQUIRE(runtime::CachedSeccomp(spec_with(2), "", &other, &problem));
  CHECK_FALSE(same(made, other));
  // The last byte is of the program: whoever takes the file takes this.
  auto text = sys::ReadFileAt(AT_FDCWD, file.c_str(), 1 << 20);
  REQUIRE(text);
  std::string marked = *text;
  marked.back() ^= 1;
  REQUIRE(sys::WriteAtomically(AT_FDCWD, file.c_str(), marked, 0600, false).ok());
  REQUIRE(runtime::CachedSeccomp(spec_with(1), cache, &taken, &problem));
  CHECK_FALSE(same(made, taken));
  REQUIRE(runtime::CachedSeccomp(spec_with(2), "", &other, &problem));
  // What was made from another profile, or is cut short, is made anew.
  for (const std::string& damaged : {std::string("x") + marked, text->substr(0, text->size() - 9), std::string()}) {
    REQUIRE(sys::WriteAtomically(AT_FDCWD, file.c_str(), damaged, 0600, false).ok());
    REQUIRE(runtime::CachedSeccomp(spec_with(1), cache, &taken, &problem));
    CHECK(same(made, taken));
    REQUIRE(runtime::CachedSeccomp(spec_with(2), "", &other, &problem));
  }
  // A directory that others may write to is not believed.
  fs::permissions(cache, fs::perms::all);
  REQUIRE(sys::WriteAtomically(AT_FDCWD, file.c_str(), marked, 0600, false).ok());
  REQUIRE(runtime::CachedSeccomp(spec_with(1), cache, &taken, &problem));
  CHECK(same(made, taken));
}
