// What the daemon asks its fork server for, and what that answers: native byte order, on one machine.
// Used by the addon, which asks, and by fork_server.cc.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace sys {

// The descriptors that come with a request, in this order, as far as its mask has them.
enum ForkFd { kForkControl, kForkCgroup, kForkLog, kForkNet, kForkIpc, kForkUts, kForkShm, kForkUser, kForkFdCount };

// Followed by the sandbox id and the path of the monitor's socket, each with a final zero. Sent whole, by
// one sendmsg(2), so that one recvmsg(2) takes it with its descriptors: unix(7), SCM_RIGHTS.
struct ForkRequest {
  uint32_t sequence;
  uint32_t fds;  // bit n: ForkFd n is there
};

struct ForkAnswer {
  uint32_t sequence;
  int32_t pid;    // -1: clone3 failed
  int32_t error;  // its errno
};

constexpr size_t kMaxForkRequest = 8192;

}  // namespace sys
