// Starting one of our own programs off the event loop.
//
// uv_spawn() forks on the event loop and waits there until the child has exec'ed: 5 ms for a daemon
// of 100 MB, 50 to 240 ms where other processes want both processors. posix_spawn(3) shares the
// memory until the exec, and only a thread of the pool sleeps meanwhile. The caller reaps by pidfd:
// libuv waits for the processes that it made, and no others.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/process.h"

namespace addon {
namespace {

struct Program {
  sys::UniqueFd pidfd, input, output, errors;
};

sys::Result<void> MakePair(sys::UniqueFd* ours, sys::UniqueFd* theirs) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
    return sys::FailedWithErrno("socketpair");
  }
  ours->reset(pair[0]);
  theirs->reset(pair[1]);
  return {};
}

// All that a child gets: three descriptors, no signal blocked or ignored, and no environment.
struct SpawnSetup {
  SpawnSetup() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;
  ~SpawnSetup() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

sys::Result<Program> Spawn(const std::vector<std::string>& words, bool has_input, bool has_errors) {
  Program program;
  sys::UniqueFd their_input, their_output, their_errors;
  if (has_input) {
    if (auto made = MakePair(&program.input, &their_input); !made) return made.failure();
  }
  if (auto made = MakePair(&program.output, &their_output); !made) return made.failure();
  if (has_errors) {
    if (auto made = MakePair(&program.errors, &their_errors); !made) return made.failure();
  }

  SpawnSetup setup;
  if (has_input) ::posix_spawn_file_actions_adddup2(&setup.actions, their_input.get(), 0);
  else ::posix_spawn_file_actions_addopen(&setup.actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&setup.actions, their_output.get(), 1);
  ::posix_spawn_file_actions_adddup2(&setup.actions, has_errors ? their_errors.get() : their_output.get(), 2);
  // Also what some library opened without close-on-exec.
  ::posix_spawn_file_actions_addclosefrom_np(&setup.actions, 3);
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  char* const environment[] = {nullptr};
  pid_t pid;
  const int error =
      ::posix_spawn(&pid, argv[0], &setup.actions, &setup.attributes, argv.data(), environment);
  if (error != 0) return sys::Failure{"posix_spawn", error};
  auto pidfd = sys::pidfd_open(pid);
  if (!pidfd) {
    // Out of descriptors: it must not stay, unreaped and unknown.
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return pidfd.failure();
  }
  program.pidfd = std::move(*pidfd);
  return program;
}

// spawnProgram(hasInput, hasErrors, path, ...args) -> [pidfd, input, output, errors]; input -1: it
// reads /dev/null; errors -1: they go where its output goes
Napi::Value SpawnProgram(const Napi::CallbackInfo& info) {
  const bool has_input = info[0].As<Napi::Boolean>().Value();
  const bool has_errors = info[1].As<Napi::Boolean>().Value();
  std::vector<std::string> words;
  for (size_t i = 2; i < info.Length(); i++) words.push_back(StringArgument(info, i));
  return SettleOnPool<Program>(
      info.Env(), [words = std::move(words), has_input, has_errors] { return Spawn(words, has_input, has_errors); },
      [](Napi::Env env, Program& program) -> Napi::Value {
        Napi::Array result = Napi::Array::New(env, 4);
        result.Set(0u, Napi::Number::New(env, program.pidfd.release()));
        result.Set(1u, Napi::Number::New(env, program.input.release()));
        result.Set(2u, Napi::Number::New(env, program.output.release()));
        result.Set(3u, Napi::Number::New(env, program.errors.release()));
        return result;
      });
}

}  // namespace

void RegisterProgramSpawn(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "spawnProgram", SpawnProgram);
}

}  // namespace addon
