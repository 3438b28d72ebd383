// The monitor: parent of a sandbox's containers.
#include "monitor/monitor_main.h"

namespace monitor {

int MonitorMain(int argc, char** /*argv*/) { return argc < 3 ? 2 : 0; }

}  // namespace monitor
