// One gRPC connection (grpc/session.h) as an object: what the peer sent goes in, what it asks comes out; answers go
// in, bytes for the peer come out. Bytes are moved by src/cri, which also knows when the connection ends.
#include <memory>
#include <string>

#include "addon/registration.h"
#include "grpc/session.h"

namespace addon {
namespace {

std::string_view BytesOf(const Napi::Value& value) {
  const auto bytes = value.As<Napi::Uint8Array>();
  return {reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength()};
}

int IntOf(const Napi::Value& value) { return value.As<Napi::Number>().Int32Value(); }

// new GrpcSession(maxMessageBytes)
class GrpcSession : public Napi::ObjectWrap<GrpcSession> {
 public:
  explicit GrpcSession(const Napi::CallbackInfo& info)
      : ObjectWrap(info), session_(std::make_unique<grpc::Session>(info[0].As<Napi::Number>().Uint32Value())) {}

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "GrpcSession",
                       {
                           InstanceMethod<&GrpcSession::Receive>("receive"),
                           InstanceMethod<&GrpcSession::Answer>("answer"),
                           InstanceMethod<&GrpcSession::Fail>("fail"),
                           InstanceMethod<&GrpcSession::Write>("write"),
                           InstanceMethod<&GrpcSession::End>("end"),
                           InstanceMethod<&GrpcSession::Queued>("queued"),
                           InstanceMethod<&GrpcSession::Take>("take"),
                           InstanceMethod<&GrpcSession::GoAway>("goAway"),
                           InstanceMethod<&GrpcSession::IsOver>("isOver"),
                           InstanceMethod<&GrpcSession::Close>("close"),
                       });
  }

 private:
  // receive(bytes) -> false | undefined | [stream, path, timeoutMs, message, …]: false where the peer speaks no
  // HTTP/2; `path` is undefined of a call that was given up.
  Napi::Value Receive(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const std::string_view bytes = BytesOf(info[0]);
    if (!session_ || !session_->Receive(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()))
      return Napi::Boolean::New(env, false);
    const std::vector<grpc::Event> events = session_->TakeEvents();
    if (events.empty()) return env.Undefined();
    auto list = Napi::Array::New(env, events.size() * 4);
    uint32_t at = 0;
    for (const grpc::Event& event : events) {
      const bool is_call = event.kind == grpc::Event::Kind::kCall;
      list.Set(at++, Napi::Number::New(env, event.stream));
      list.Set(at++, is_call ? Napi::String::New(env, event.path) : env.Undefined());
      list.Set(at++, Napi::Number::New(env, event.timeout_ms));
      list.Set(at++, is_call ? Napi::Buffer<char>::Copy(env, event.message.data(), event.message.size())
                             : env.Undefined());
    }
    return list;
  }

  // answer(stream, message), write(stream, message), end(stream)
  Napi::Value Answer(const Napi::CallbackInfo& info) {
    if (session_) session_->Answer(IntOf(info[0]), BytesOf(info[1]));
    return info.Env().Undefined();
  }
  Napi::Value Write(const Napi::CallbackInfo& info) {
    if (session_) session_->Write(IntOf(info[0]), BytesOf(info[1]));
    return info.Env().Undefined();
  }
  Napi::Value End(const Napi::CallbackInfo& info) {
    if (session_) session_->End(IntOf(info[0]));
    return info.Env().Undefined();
  }

  // fail(stream, status, message, code)
  Napi::Value Fail(const Napi::CallbackInfo& info) {
    if (!session_) return info.Env().Undefined();
    session_->Fail(IntOf(info[0]), IntOf(info[1]), info[2].As<Napi::String>().Utf8Value(),
                   info[3].As<Napi::String>().Utf8Value());
    return info.Env().Undefined();
  }

  // queued(stream) -> bytes
  Napi::Value Queued(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), session_ ? static_cast<double>(session_->Queued(IntOf(info[0]))) : 0);
  }

  // take() -> Buffer | undefined
  Napi::Value Take(const Napi::CallbackInfo& info) {
    const std::string bytes = session_ ? session_->Take() : "";
    if (bytes.empty()) return info.Env().Undefined();
    return Napi::Buffer<char>::Copy(info.Env(), bytes.data(), bytes.size());
  }

  Napi::Value GoAway(const Napi::CallbackInfo& info) {
    if (session_) session_->GoAway();
    return info.Env().Undefined();
  }

  Napi::Value IsOver(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), !session_ || session_->IsOver());
  }

  // close(): gives its memory back now. JavaScript's collector does not see it, and would come too late.
  Napi::Value Close(const Napi::CallbackInfo& info) {
    session_.reset();
    return info.Env().Undefined();
  }

  // None once closed.
  std::unique_ptr<grpc::Session> session_;
};

}  // namespace

void RegisterGrpcSession(Napi::Env env, Napi::Object exports) {
  exports.Set("GrpcSession", GrpcSession::Define(env));
}

}  // namespace addon
