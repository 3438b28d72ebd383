#include "runtime/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/describe_report.h"
#include "sys/files.h"
#include "sys/process.h"

namespace runtime {
namespace {

// The outcome of hooks that all went well: no step has this name.
constexpr char kWell[] = "well";

sys::Result<sys::UniqueFd> StateFile(const std::string& text) {
  const int raw = ::memfd_create("state", MFD_CLOEXEC);
  if (raw < 0) return sys::FailedWithErrno("memfd_create");
  sys::UniqueFd fd(raw);
  if (auto written = sys::WriteAll(fd.get(), text); !written) return written.failure();
  return fd;
}

// SIGNAL-SAFE: runs between clone3 and execve.
[[noreturn]] void ExecHook(const char* path, const char* const* args, const char* const* env,
                           int state) {
  ::setsid();  // leads a process group, which a timeout ends whole
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody waits for it any more when the runtime is gone
  ::lseek(state, 0, SEEK_SET);
  if (::dup2(state, 0) < 0) ::_exit(126);
  ::execve(path, const_cast<char* const*>(args), const_cast<char* const*>(env));
  ::_exit(127);
}

bool Fail(const std::string& doing, const sys::Failure& failure, Problem* problem) {
  *problem = DescribeFailure(Step::kHook, doing, failure);
  return false;
}

bool RunOne(const HookSpec& hook, const std::string& doing, int state, Problem* problem) {
  Arena arena;
  std::vector<const char*> args = hook.args;
  if (args.empty()) args.push_back(hook.path);
  const char* const* argv = arena.List(args);
  const char* const* envp = arena.List(hook.env);
  sys::UniqueFd pidfd;
  auto pid = sys::clone3({}, &pidfd);
  if (!pid) return Fail(doing, pid.failure(), problem);
  if (*pid == 0) ExecHook(hook.path, argv, envp, state);
  struct pollfd ended = {pidfd.get(), POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&ended, 1, hook.timeout_s > 0 ? hook.timeout_s * 1000 : -1);
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) ::kill(-*pid, SIGKILL);
  auto status = sys::waitid_pidfd(pidfd.get(), 0, nullptr);
  if (ready == 0) return Fail(doing, {"waitid", ETIMEDOUT}, problem);
  if (!status) return Fail(doing, status.failure(), problem);
  if (status->code != 0 || status->signal != 0) {
    problem->step = "hook";
    problem->message = doing + ": ended with " +
                       (status->signal != 0 ? "signal " + std::to_string(status->signal)
                                            : "status " + std::to_string(status->code));
    return false;
  }
  return true;
}

constexpr int kOutcomeFd = 3;

// What a Problem of a hook holds, a line each; the message is last and may have lines.
std::string ToOutcome(const Problem& problem) {
  return problem.step + "\n" + problem.syscall + "\n" + problem.errno_name + "\n" + problem.message;
}

[[noreturn]] void RunHooksApart(const HookState& state, int outcome) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The caller's handlers write to descriptors that are other things here.
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT}) ::signal(signal, SIG_DFL);
  // Clients of the caller must not be kept waiting by copies of their connections.
  if (outcome != kOutcomeFd && ::dup3(outcome, kOutcomeFd, O_CLOEXEC) < 0) ::_exit(1);
  ::syscall(SYS_close_range, kOutcomeFd + 1, ~0U, 0);
  Problem problem;
  const bool ok = RunHooks(state.spec->prestart, "prestart", state, &problem) &&
                  RunHooks(state.spec->create_runtime, "createRuntime", state, &problem);
  const std::string text = ok ? std::string(kWell) : ToOutcome(problem);
  ::_exit(sys::WriteAll(kOutcomeFd, text).ok() ? 0 : 1);
}

}  // namespace

bool BeginHooks(const HookState& state, sys::UniqueFd* outcome, sys::UniqueFd* process, Problem* problem) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return Fail("hooks", sys::FailedWithErrno("pipe2"), problem);
  outcome->reset(ends[0]);
  const sys::UniqueFd write_end(ends[1]);
  auto pid = sys::clone3({}, process);
  if (!pid) return Fail("hooks", pid.failure(), problem);
  if (*pid == 0) RunHooksApart(state, write_end.get());
  return true;
}

bool ReadHooksOutcome(int outcome, Problem* problem) {
  std::string text;
  char part[1024];
  for (;;) {
    const ssize_t got = ::read(outcome, part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(part, static_cast<size_t>(got));
  }
  if (text == kWell) return true;
  problem->step = "hook";
  problem->message = "hooks: the process that runs them was killed";
  std::string* const fields[] = {&problem->step, &problem->syscall, &problem->errno_name};
  size_t at = 0;
  for (std::string* field : fields) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) return false;
    *field = text.substr(at, end - at);
    at = end + 1;
  }
  problem->message = text.substr(at);
  return false;
}

std::string StateJson(const HookState& state) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  writer.StartObject();
  writer.Key("ociVersion");
  writer.String(state.spec->oci_version);
  writer.Key("id");
  writer.String(state.id.c_str());
  writer.Key("status");
  writer.String(state.status);
  if (state.pid > 0) {
    writer.Key("pid");
    writer.Int(state.pid);
  }
  writer.Key("bundle");
  writer.String(state.bundle.c_str());
  writer.Key("annotations");
  writer.StartObject();
  for (const SysctlSpec& annotation : state.spec->annotations) {
    writer.Key(annotation.key);
    writer.String(annotation.value);
  }
  writer.EndObject();
  writer.EndObject();
  return buffer.GetString();
}

bool RunHooks(const std::vector<HookSpec>& hooks, const char* kind, const HookState& state,
              Problem* problem) {
  if (hooks.empty()) return true;
  auto file = StateFile(StateJson(state));
  if (!file) return Fail(std::string("hook ") + kind, file.failure(), problem);
  for (const HookSpec& hook : hooks) {
    const std::string doing = std::string("hook ") + kind + " \"" + hook.path + "\"";
    if (!RunOne(hook, doing, file->get(), problem)) return false;
  }
  return true;
}

std::vector<std::string> RunPoststop(const HookState& state) {
  std::vector<std::string> warnings;
  for (const HookSpec& hook : state.spec->poststop) {
    Problem failure;
    if (!RunHooks({hook}, "poststop", state, &failure)) warnings.push_back(failure.message + ", ignoring");
  }
  return warnings;
}

bool ChildHooks::Prepare(const Spec& spec, Problem* problem) {
  if (spec.create_container.empty() && spec.start_container.empty()) return true;
  const int raw = ::memfd_create("state", MFD_CLOEXEC);
  if (raw < 0) return Fail("hook", sys::FailedWithErrno("memfd_create"), problem);
  state_.reset(raw);
  const auto convert = [this](const std::vector<HookSpec>& from, std::vector<ChildHook>* to) {
    for (const HookSpec& hook : from) {
      to->push_back({hook.path, arena_.List(hook.args), arena_.List(hook.env), hook.timeout_s});
    }
  };
  convert(spec.create_container, &create_container_);
  convert(spec.start_container, &start_container_);
  return true;
}

void ChildHooks::FillContext(ChildContext* context) const {
  context->hook_state = state_.get();
  context->create_container = create_container_.data();
  context->create_container_count = create_container_.size();
  context->start_container = start_container_.data();
  context->start_container_count = start_container_.size();
}

bool ChildHooks::WriteState(const HookState& state, Problem* problem) const {
  if (!state_.valid()) return true;
  auto written = sys::WriteAll(state_.get(), StateJson(state));
  return written ? true : Fail("hook state", written.failure(), problem);
}

}  // namespace runtime
