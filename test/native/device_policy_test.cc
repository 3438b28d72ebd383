// Loading the device policy while signals come in, as they do to a monitor whose children end.
#include "runtime/device_policy.h"

#include <doctest/doctest.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/container.h"

namespace {

volatile sig_atomic_t signals = 0;

// SIGALRM at this interval, for as long as it lives.
class Alarms {
 public:
  explicit Alarms(std::chrono::microseconds interval) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = [](int) { signals = signals + 1; };
    REQUIRE(sigaction(SIGALRM, &action, &before_) == 0);
    Set(interval.count());
  }
  ~Alarms() {
    Set(0);
    sigaction(SIGALRM, &before_, nullptr);
  }

 private:
  static void Set(suseconds_t interval_us) {
    const struct itimerval every = {{0, interval_us}, {0, interval_us}};
    setitimer(ITIMER_REAL, &every, nullptr);
  }

  struct sigaction before_;
};

}  // namespace

TEST_CASE("a device policy is loaded though signals come in meanwhile") {
  std::vector<runtime::DeviceRule> rules;
  for (int minor = 0; minor < 50; ++minor) rules.push_back({true, 'c', 10, minor, true, true, false});
  const auto load = [&rules] {
    runtime::Problem problem;
    const sys::UniqueFd program = runtime::LoadDeviceProgram(runtime::DeviceProgram(rules), &problem);
    CAPTURE(problem.error);
    REQUIRE(program.valid());
  };
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) load();
  const auto each = (std::chrono::steady_clock::now() - begin) / 20;

  // Every fourth load or so is in the verifier when the signal comes, however fast the machine is.
  const Alarms alarms(std::chrono::duration_cast<std::chrono::microseconds>(4 * each));
  for (int i = 0; i < 150; ++i) load();
  CHECK(signals > 10);
}

namespace {

// A cgroup of its own for as long as it lives.
class Cgroup {
 public:
  explicit Cgroup(const char* name) : path_(FindCgroup2() + "/minke-policy-" + name + "-" + std::to_string(::getpid())) {
    REQUIRE(::mkdir(path_.c_str(), 0755) == 0);
    fd_.reset(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(fd_.valid());
  }
  ~Cgroup() { ::rmdir(path_.c_str()); }
  int fd() const { return fd_.get(); }

  // Of the one device program that is attached.
  uint32_t ProgramId() const {
    uint32_t ids[4] = {};
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.query.target_fd = static_cast<uint32_t>(fd_.get());
    attributes.query.attach_type = BPF_CGROUP_DEVICE;
    attributes.query.prog_ids = reinterpret_cast<uint64_t>(ids);
    attributes.query.prog_cnt = 4;
    REQUIRE(::syscall(SYS_bpf, BPF_PROG_QUERY, &attributes, sizeof attributes) == 0);
    REQUIRE(attributes.query.prog_cnt == 1);
    return ids[0];
  }

 private:
  static std::string FindCgroup2() {
    std::ifstream mounts("/proc/self/mounts");
    for (std::string source, target, type, rest; mounts >> source >> target >> type; std::getline(mounts, rest)) {
      if (type == "cgroup2") return target;
    }
    FAIL("no cgroup2 is mounted");
    return "";
  }

  std::string path_;
  sys::UniqueFd fd_;
};

}  // namespace

TEST_CASE("cgroups with the shared device policy's rules have one program, others their own") {
  const std::vector<runtime::DeviceRule> shared = {{false, 'a', -1, -1, true, true, true},
                                                   {true, 'c', 1, 3, true, true, true}};
  std::vector<runtime::DeviceRule> other = shared;
  other.push_back({true, 'c', 10, 200, true, true, false});
  const int fd = runtime::ShareDevicePolicy(
      R"({"devices":[{"allow":false},{"allow":true,"type":"c","major":1,"minor":3}]})", 100);
  REQUIRE(fd >= 100);
  const Cgroup first("first"), second("second"), third("third");
  runtime::Problem problem;
  CHECK(runtime::AttachDevicePolicy(shared, first.fd(), &problem));
  CHECK(runtime::AttachDevicePolicy(shared, second.fd(), &problem));
  CHECK(runtime::AttachDevicePolicy(other, third.fd(), &problem));
  CHECK(first.ProgramId() == second.ProgramId());
  CHECK(first.ProgramId() != third.ProgramId());
  ::close(fd);
}

TEST_CASE("a device policy that cannot be read is not shared") {
  CHECK(runtime::ShareDevicePolicy(R"({"devices":[{"allow":true,"type":"x"}]})", 100) == -1);
  CHECK(runtime::ShareDevicePolicy("", 100) == -1);
}
