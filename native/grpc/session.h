// The server's side of one gRPC connection, as a machine that is fed: bytes in, calls out; answers in, bytes out.
//
// HTTP/2 is libnghttp2's; here is what gRPC makes of it (gRPC over HTTP/2,
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), for methods that take one request message and
// answer with one or with a stream of them: all of CRI's. No sockets, no clock, no JavaScript: the addon wraps it,
// src/cri/grpc-server.ts moves the bytes.
//
// THREADS: one at a time.
#pragma once

#include <nghttp2/nghttp2.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace grpc {

// Status codes: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
constexpr int kOk = 0;
constexpr int kResourceExhausted = 8;
constexpr int kUnimplemented = 12;
constexpr int kInternal = 13;

// What a peer wants.
struct Event {
  enum class Kind { kCall, kCancel };
  Kind kind;
  int32_t stream;
  // Of a call only. `timeout_ms` is negative where the caller will wait for ever.
  std::string path;
  double timeout_ms = -1;
  std::string message;
};

class Session {
 public:
  // `max_message_bytes`: a longer request is refused with RESOURCE_EXHAUSTED as soon as it says how long it is.
  explicit Session(size_t max_message_bytes);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Takes what the peer has sent. False: it speaks no HTTP/2, and the connection has to end once what Take() has
  // left is sent.
  bool Receive(const uint8_t* bytes, size_t length);

  // What was asked since the last time, in order.
  std::vector<Event> TakeEvents();

  // The one answer of a unary call. These four do nothing for a stream that has ended.
  void Answer(int32_t stream, std::string_view message);
  // The end of a call that failed, whether it has answered something or not. `message` is UTF-8, `code` a name.
  void Fail(int32_t stream, int status, std::string_view message, std::string_view code);
  // One more answer of a stream.
  void Write(int32_t stream, std::string_view message);
  // The end of a stream that went well.
  void End(int32_t stream);

  // Bytes of a stream's answers that have not been taken yet.
  size_t Queued(int32_t stream) const;

  // Some of the bytes to be sent, in order; empty where there are none that the peer's windows let go now.
  std::string Take();

  // From here on new calls are left to another connection; those under way may end.
  void GoAway();

  // All is said: the connection can be closed once what was taken has been sent.
  bool IsOver() const;

 private:
  struct Stream;
  struct Callbacks;

  Stream* Find(int32_t id) const;
  // The length that a message's prefix says.
  size_t WantedBytes(std::string_view body) const;
  // Checks a request that has arrived whole: an event, or a refusal.
  void Complete(int32_t id, Stream* stream);
  // Answers what is no gRPC call, in HTTP's words.
  void RefuseRequest(int32_t id, Stream* stream, const char* http_status);
  void Respond(int32_t id, Stream* stream);

  const size_t max_message_bytes_;
  nghttp2_session* session_ = nullptr;
  std::map<int32_t, std::unique_ptr<Stream>> streams_;
  std::vector<Event> events_;
};

// "20S" -> 20000. False: it is no such text.
bool ParseTimeout(std::string_view text, double* ms);

// A status message as a header value: everything but the visible ASCII characters and the space, and "%", as %XX.
std::string PercentEncode(std::string_view message);

}  // namespace grpc
