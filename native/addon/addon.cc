// The module: the daemon's hands in the kernel (DESIGN.md, decision 3).
#include <napi.h>

#include "addon/registration.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  addon::RegisterNamespaces(env, exports);
  addon::RegisterNetlink(env, exports);
  addon::RegisterLinkDeletion(env, exports);
  addon::RegisterMounts(env, exports);
  addon::RegisterProcess(env, exports);
  addon::RegisterMonitorFork(env, exports);
  addon::RegisterMonitorSpawn(env, exports);
  addon::RegisterProgramSpawn(env, exports);
  addon::RegisterFiles(env, exports);
  addon::RegisterFileSteps(env, exports);
  addon::RegisterKernelFiles(env, exports);
  addon::RegisterGrpcSession(env, exports);
  addon::RegisterSockets(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(minke, Init)
