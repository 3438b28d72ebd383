// Entry point of minke-init, chosen by native/oci/main.cc by the name it was started under.
#pragma once

namespace init {

// Reaps as pid 1 of a shared PID namespace until SIGTERM. Returns 0.
int InitMain(int argc, char** argv);

}  // namespace init
