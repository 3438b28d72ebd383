// Work off the event loop, settled as a promise. Two places to run it:
//
//   SettleOnPool       libuv's pool: bounded work only, never a wait for a process
//   SettleOnOwnThread  a thread that exists for this call and then ends: unshare and setns,
//                      which change the thread they run on for good
//
// A work function returns sys::Result<T>; ToValue turns T into a JavaScript value on the
// event loop. A failure rejects with an Error that carries `op` and `errno` and no sentence:
// src/native makes the sentence. Nothing here calls a JavaScript function.
#pragma once

#include <napi.h>
#include <pthread.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace addon {

// An Error with `op` (the kernel's name of the call), `errno` (positive) and, where the
// kernel explained itself, `detail`.
inline Napi::Error ToError(Napi::Env env, const sys::Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.op);
  error.Set("op", Napi::String::New(env, failure.op));
  error.Set("errno", Napi::Number::New(env, failure.error));
  return error;
}

// For synchronous functions: leaves the exception pending and returns `undefined`.
inline Napi::Value Throw(Napi::Env env, const sys::Failure& failure) {
  ToError(env, failure).ThrowAsJavaScriptException();
  return env.Undefined();
}

template <typename T>
struct Operation {
  explicit Operation(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise::Deferred deferred;
  std::function<sys::Result<T>()> work;
  std::function<Napi::Value(Napi::Env, T&)> to_value;
  std::optional<sys::Result<T>> result;

  // THREADS: the event loop.
  void Settle(Napi::Env env) {
    Napi::HandleScope scope(env);
    if (!result->ok()) {
      deferred.Reject(ToError(env, result->failure()).Value());
    } else {
      deferred.Resolve(to_value(env, result->value()));
    }
  }
};

template <typename T>
class PoolWorker : public Napi::AsyncWorker {
 public:
  PoolWorker(Napi::Env env, Operation<T>* operation)
      : Napi::AsyncWorker(env, "minke"), operation_(operation) {}
  ~PoolWorker() override { delete operation_; }
  void Execute() override { operation_->result.emplace(operation_->work()); }
  void OnOK() override { operation_->Settle(Env()); }

 private:
  Operation<T>* operation_;
};

template <typename T, typename Work, typename ToValue>
Napi::Value SettleOnPool(Napi::Env env, Work work, ToValue to_value) {
  auto* operation = new Operation<T>(env);
  operation->work = std::move(work);
  operation->to_value = std::move(to_value);
  Napi::Promise promise = operation->deferred.Promise();
  (new PoolWorker<T>(env, operation))->Queue();
  return promise;
}

template <typename T>
struct ThreadCall {
  explicit ThreadCall(Napi::Env env) : operation(env) {}
  Operation<T> operation;
  napi_threadsafe_function settle = nullptr;
};

template <typename T>
void SettleThreadCall(napi_env env, napi_value, void*, void* argument) {
  auto* call = static_cast<ThreadCall<T>*>(argument);
  if (env != nullptr) call->operation.Settle(Napi::Env(env));
  delete call;
}

template <typename T>
void* RunThreadCall(void* argument) {
  auto* call = static_cast<ThreadCall<T>*>(argument);
  call->operation.result.emplace(call->operation.work());
  // After this line the event loop may delete the call: keep what is needed.
  napi_threadsafe_function settle = call->settle;
  napi_call_threadsafe_function(settle, call, napi_tsfn_blocking);
  napi_release_threadsafe_function(settle, napi_tsfn_release);
  return nullptr;
}

// Starts `run(call)` on a thread that ends with it; `settle` is called on the event loop for each of its
// napi_call_threadsafe_function. 0, or an errno: the caller keeps `call` then.
template <typename Call>
int StartOwnThread(Napi::Env env, Call* call, void* (*run)(void*), napi_threadsafe_function_call_js settle) {
  const napi_status made = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "minke"), 0, 1, nullptr, nullptr, nullptr, settle, &call->settle);
  if (made != napi_ok) return ENOMEM;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, run, call);
  pthread_attr_destroy(&attributes);
  if (error != 0) napi_release_threadsafe_function(call->settle, napi_tsfn_abort);
  return error;
}

template <typename T, typename Work, typename ToValue>
Napi::Value SettleOnOwnThread(Napi::Env env, Work work, ToValue to_value) {
  auto* call = new ThreadCall<T>(env);
  call->operation.work = std::move(work);
  call->operation.to_value = std::move(to_value);
  Napi::Promise promise = call->operation.deferred.Promise();
  const int error = StartOwnThread(env, call, RunThreadCall<T>, SettleThreadCall<T>);
  if (error != 0) {
    call->operation.deferred.Reject(ToError(env, sys::Failure{"pthread_create", error}).Value());
    delete call;
  }
  return promise;
}

template <typename T, typename U>
struct TwoStepCall {
  explicit TwoStepCall(Napi::Env env) : first(env), second(env) {}
  Operation<T> first;
  Operation<U> second;
  napi_threadsafe_function settle = nullptr;
  // Of the event loop alone.
  bool has_settled_first = false;
};

template <typename T, typename U>
void SettleTwoStepCall(napi_env env, napi_value, void*, void* argument) {
  auto* call = static_cast<TwoStepCall<T, U>*>(argument);
  if (!call->has_settled_first) {
    call->has_settled_first = true;
    if (env != nullptr) call->first.Settle(Napi::Env(env));
    return;
  }
  if (env != nullptr) call->second.Settle(Napi::Env(env));
  delete call;
}

template <typename T, typename U>
void* RunTwoStepCall(void* argument) {
  auto* call = static_cast<TwoStepCall<T, U>*>(argument);
  // The event loop deletes the call once it has heard twice.
  napi_threadsafe_function settle = call->settle;
  call->first.result.emplace(call->first.work());
  // Looked at before the event loop is told, which takes the value out.
  const bool is_done = call->first.result->ok();
  if (!is_done) call->second.result.emplace(call->first.result->failure());
  napi_call_threadsafe_function(settle, call, napi_tsfn_blocking);
  if (is_done) call->second.result.emplace(call->second.work());
  napi_call_threadsafe_function(settle, call, napi_tsfn_blocking);
  napi_release_threadsafe_function(settle, napi_tsfn_release);
  return nullptr;
}

// Two steps on one thread, each settled as soon as it is done: [Promise, Promise]. The second is not taken
// where the first failed, and fails as that did.
template <typename T, typename U, typename Work, typename ToValue, typename NextWork, typename NextToValue>
Napi::Value SettleTwiceOnOwnThread(Napi::Env env, Work work, ToValue to_value, NextWork next_work,
                                   NextToValue next_to_value) {
  auto* call = new TwoStepCall<T, U>(env);
  call->first.work = std::move(work);
  call->first.to_value = std::move(to_value);
  call->second.work = std::move(next_work);
  call->second.to_value = std::move(next_to_value);
  Napi::Array promises = Napi::Array::New(env, 2);
  promises.Set(0u, call->first.deferred.Promise());
  promises.Set(1u, call->second.deferred.Promise());
  const int error = StartOwnThread(env, call, RunTwoStepCall<T, U>, SettleTwoStepCall<T, U>);
  if (error != 0) {
    const Napi::Error refusal = ToError(env, sys::Failure{"pthread_create", error});
    call->first.deferred.Reject(refusal.Value());
    call->second.deferred.Reject(refusal.Value());
    delete call;
  }
  return promises;
}

// The usual conversions. A descriptor crosses as a number; src/native wraps it at once.
inline Napi::Value FdToValue(Napi::Env env, sys::UniqueFd& fd) {
  return Napi::Number::New(env, fd.release());
}
struct Nothing {};
inline Napi::Value NothingToValue(Napi::Env env, Nothing&) { return env.Undefined(); }

inline int IntArgument(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::Number>().Int32Value();
}
inline std::string StringArgument(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::String>().Utf8Value();
}

}  // namespace addon
