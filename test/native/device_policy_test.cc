// Loading the device policy while signals come in, as they do to a monitor whose children end.
#include "runtime/device_policy.h"

#include <doctest/doctest.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include <chrono>
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
    const sys::UniqueFd program = runtime::LoadDeviceProgram(rules, &problem);
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
