// Entry point of the per-sandbox monitor, chosen by native/oci/main.cc by the name it was started under.
#pragma once

#include "monitor/monitor.h"

namespace monitor {

// Runs the monitor until it is told to shut down. `argv` as PROTOCOL.md, "Start".
// Returns the exit status: 0 after a shutdown, 2 for wrong arguments, 1 where it could not start.
int MonitorMain(int argc, char** argv);

// The same with the arguments read. Descriptors that `settings` does not name are closed; `argv` is what
// ps shows, and is written over. Returns the exit status.
int RunMonitor(int argc, char** argv, MonitorSettings settings);

}  // namespace monitor
