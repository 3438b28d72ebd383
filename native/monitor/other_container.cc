// The part of a container that another runtime runs: create, start, and delete at the end.
#include <sys/mount.h>

#include <utility>

#include "monitor/container.h"
#include "runtime/overlay.h"
#include "sys/mount_api.h"

namespace monitor {
namespace {

constexpr int64_t kDeleteMs = 10'000;
constexpr int kNoStdio[3] = {-1, -1, -1};

}  // namespace

bool Container::BeginByOther(runtime::Problem* problem) {
  const std::string rootfs = bundle() + "/rootfs";
  if (request_.launch.overlay) {
    if (!runtime::MountRootfs(*request_.launch.overlay, rootfs, problem)) return false;
    request_.launch.overlay.reset();
    has_rootfs_ = true;
  }
  auto call = std::make_unique<RuntimeCall>(&request_.runtime);
  call->Add("--bundle");
  call->Add(bundle());
  call->AddPidFile();
  bool is_called = true;
  if (has_terminal()) {
    const auto listening = call->AddConsoleSocket();
    is_called = listening.ok();
    problem->step = "stdio";
    if (!is_called) problem->message = std::string("listen for the terminal: ") + listening.failure().op;
  }
  call->Add(id());
  is_called = is_called && Call(std::move(call), "create", request_.launch.stdio, problem);
  CloseChildEnds();
  if (!is_called) {
    if (has_rootfs_) static_cast<void>(sys::umount2(rootfs.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW).ok());
    return false;
  }
  ReadOutput(false);
  return true;
}

void Container::OnCallDone(RuntimeCall* call, const runtime::Problem* problem) {
  if (call->command() == "delete") {
    OnDeleted();
    return;
  }
  if (problem != nullptr) {
    FailOther(*problem);
    return;
  }
  if (call->command() == "start") {
    Began();
    return;
  }
  runtime::Problem own;
  auto start = std::make_unique<RuntimeCall>(&request_.runtime);
  start->Add(id());
  if (!Adopt(call, &own) || !Call(std::move(start), "start", kNoStdio, &own)) FailOther(own);
}

// Told once nothing is left.
void Container::FailOther(const runtime::Problem& problem) {
  start_problem_ = std::make_unique<runtime::Problem>(problem);
  SendSignal(SIGKILL);
  Delete();
}

void Container::Delete() {
  auto call = std::make_unique<RuntimeCall>(&request_.runtime);
  call->Add("--force");
  call->Add(id());
  runtime::Problem ignored;
  if (!Call(std::move(call), "delete", kNoStdio, &ignored)) {
    OnDeleted();
    return;
  }
  delete_alarm_.ArmIn(kDeleteMs);
}

// What a delete could not remove is in the state directory and the cgroup: the daemon removes both.
void Container::OnDeleted() {
  delete_alarm_.Disarm();
  if (has_rootfs_) {
    static_cast<void>(sys::umount2((bundle() + "/rootfs").c_str(), MNT_DETACH | UMOUNT_NOFOLLOW).ok());
    has_rootfs_ = false;
  }
  is_deleted_ = true;
  if (start_problem_) {
    const auto problem = std::move(start_problem_);
    CouldNotBegin(*problem);
    return;
  }
  ContinueDrain();
}

}  // namespace monitor
