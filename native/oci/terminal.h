// What a foreground command does with its container: signals, terminal, exit status; and handing
// a pty master to --console-socket.
#pragma once

#include <sys/types.h>

#include <string>

namespace oci {

// Waits for a child and returns its exit status, 128 + n for signal n. Meanwhile signals that
// reach this process go to the child, and with a terminal (master; -1 = none) standard input and
// output are connected to it.
int WaitInForeground(pid_t pid, int pidfd, int master);

// Sends the master over the unix socket at `path`, as runc does (docs/terminals.md of runc).
[[nodiscard]] bool SendTerminal(const std::string& path, int master, std::string* problem);

}  // namespace oci
