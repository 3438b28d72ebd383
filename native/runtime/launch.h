// What starting a container and starting an exec have in common. Only container.cc, exec.cc and
// launch.cc include this.
#pragma once

#include "runtime/container.h"
#include "runtime/plan.h"
#include "sys/result.h"
#include "sys/unique_fd.h"

namespace runtime {

struct LaunchState {
  Plan plan;
  std::string id, bundle;
};

struct ReportPair {
  sys::UniqueFd parent, child;
};
sys::Result<ReportPair> MakeReportPair();

// A byte that lets the child go on. EPIPE: it is dead, and its report says why.
void SendByte(int report);

// Kills and reaps a child that cannot be let on.
void Abandon(Launch* launch);

// While it lives, children of this process are born in other pid and time namespaces:
// setns(2) of those kinds acts on children only. Undone on destruction.
class ChildNamespaces {
 public:
  ~ChildNamespaces();
  // target: a pid namespace file, or a pidfd.
  sys::Result<void> JoinPid(int target);
  // time_namespaces(7): the offsets are written before the first process is in.
  sys::Result<void> NewTime(const Spec& spec);

 private:
  sys::UniqueFd own_pid_, own_time_;
};

}  // namespace runtime
