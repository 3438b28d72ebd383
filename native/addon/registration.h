// What each file of the addon adds to the module's exports.
//
// Functions take scalars, strings and one Buffer, never option objects: reading a property
// can run user code. Only src/native calls them, so argument types are not checked again.
#pragma once

#include <napi.h>

namespace addon {

void RegisterNamespaces(Napi::Env env, Napi::Object exports);
void RegisterNetlink(Napi::Env env, Napi::Object exports);
void RegisterLinkDeletion(Napi::Env env, Napi::Object exports);
void RegisterMounts(Napi::Env env, Napi::Object exports);
void RegisterProcess(Napi::Env env, Napi::Object exports);
void RegisterMonitorFork(Napi::Env env, Napi::Object exports);
void RegisterMonitorSpawn(Napi::Env env, Napi::Object exports);
void RegisterProgramSpawn(Napi::Env env, Napi::Object exports);
void RegisterFiles(Napi::Env env, Napi::Object exports);
void RegisterFileSteps(Napi::Env env, Napi::Object exports);
void RegisterKernelFiles(Napi::Env env, Napi::Object exports);
void RegisterGrpcSession(Napi::Env env, Napi::Object exports);
void RegisterSockets(Napi::Env env, Napi::Object exports);

inline void Export(Napi::Env env, Napi::Object exports, const char* name,
                   Napi::Value (*function)(const Napi::CallbackInfo&)) {
  exports.Set(name, Napi::Function::New(env, function, name));
}

}  // namespace addon
