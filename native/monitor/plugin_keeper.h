// Runs one plugin for the daemon and sees to it that nothing of it outlives the daemon, however that
// ends. Chosen by native/oci/main.cc by the name `minke-plugin`.
#pragma once

namespace monitor {

// minke-plugin CGROUP PROGRAM: starts PROGRAM, born in CGROUP ("": in the caller's), with descriptors
// 0 to 3 and the environment that it was given itself. Descriptor 4 is a socket of the daemon: one
// int32 is written to it, 0 once PROGRAM runs, else the errno; when its other end is closed, PROGRAM
// gets a SIGTERM, two seconds, and SIGKILL. Whatever of it is left in the cgroup is killed.
// Ends as PROGRAM ended.
int PluginKeeperMain(int argc, char** argv);

}  // namespace monitor
