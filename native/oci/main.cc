// One static program under five names: minke-oci, minke-monitor, minke-fork, minke-plugin, minke-init. The
// name it is started under decides; whatever else it is called, it is minke-oci.
#include <string.h>
#include <unistd.h>

#include "init/init_main.h"
#include "monitor/fork_server.h"
#include "monitor/monitor_main.h"
#include "monitor/plugin_keeper.h"
#include "oci/commands.h"

int main(int argc, char** argv) {
  const char* name = argc > 0 ? argv[0] : "minke-oci";
  if (const char* slash = strrchr(name, '/'); slash != nullptr) name = slash + 1;
  if (strcmp(name, "minke-monitor") == 0) return monitor::MonitorMain(argc, argv);
  if (strcmp(name, "minke-fork") == 0) return monitor::ForkServerMain(argc, argv);
  if (strcmp(name, "minke-plugin") == 0) return monitor::PluginKeeperMain(argc, argv);
  if (strcmp(name, "minke-init") == 0) return init::InitMain(argc, argv);
  return oci::OciMain(argc, argv);
}
