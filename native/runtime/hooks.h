// OCI hooks: those that the parent runs (prestart, createRuntime, poststart, poststop) and what
// the child needs to run its own (createContainer, startContainer).
#pragma once

#include <string>
#include <vector>

#include "runtime/child.h"
#include "runtime/container.h"
#include "sys/unique_fd.h"

namespace runtime {

struct HookState {
  const std::string& id;
  const std::string& bundle;
  pid_t pid;
  const char* status;  // "creating", "created", "running", "stopped"
  const Spec* spec;
};

// The state of runtime-spec runtime.md, "State", as JSON.
std::string StateJson(const HookState& state);

// Runs hooks in order, each with the state on its standard input. False on the first that
// fails, ends with a status other than 0, or takes longer than its timeout (it is killed).
[[nodiscard]] bool RunHooks(const std::vector<HookSpec>& hooks, const char* kind,
                            const HookState& state, Problem* problem);

// Runs prestart and createRuntime hooks in a process of their own, for a caller that others wait for. It dies
// with its caller, and its hooks with it.
//
// outcome  readable when they have ended; for ReadHooksOutcome
// process  its pidfd; the caller reaps it
[[nodiscard]] bool BeginHooks(const HookState& state, sys::UniqueFd* outcome, sys::UniqueFd* process, Problem* problem);
// True: all went well. Blocks until they have ended.
[[nodiscard]] bool ReadHooksOutcome(int outcome, Problem* problem);

// runtime.md, "Lifecycle": a poststop hook that fails is a warning, and the others still run.
// Answers one sentence for each that failed.
std::vector<std::string> RunPoststop(const HookState& state);

// The child's hooks in the child's form, and the memfd that carries the state into it.
class ChildHooks {
 public:
  [[nodiscard]] bool Prepare(const Spec& spec, Problem* problem);
  void FillContext(ChildContext* context) const;
  // After the clone, when the pid is known; before the child is let on.
  [[nodiscard]] bool WriteState(const HookState& state, Problem* problem) const;

 private:
  sys::UniqueFd state_;
  Arena arena_;
  std::vector<ChildHook> create_container_, start_container_;
};

}  // namespace runtime
