// Makes monitors by forking itself, for as long as the daemon that started it lives. Chosen by
// native/oci/main.cc by the name `minke-fork`.
#pragma once

namespace monitor {

// Serves ForkRequest (fork_request.h) on descriptor 3, a stream socket, until its other end is closed.
// A monitor is the child of this process's parent (CLONE_PARENT), born in the cgroup of its request.
// Returns the exit status: 0 when the daemon is gone, 1 where it asked for what nobody can read.
int ForkServerMain(int argc, char** argv);

}  // namespace monitor
