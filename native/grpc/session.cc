#include "grpc/session.h"

#include <string.h>

#include <algorithm>
#include <utility>

namespace grpc {
namespace {

// gRPC over HTTP/2, "Length-Prefixed-Message": a flag and the length, big-endian.
constexpr size_t kPrefixBytes = 5;
// Callers beyond this many wait for their turn, by HTTP/2's own means.
constexpr uint32_t kMaxConcurrentCalls = 1024;
// What may come before a WINDOW_UPDATE has gone back: on a machine's own socket that only costs turns.
constexpr int32_t kWindowBytes = 1 << 20;
// One Take(): the rest waits until the socket has taken this.
constexpr size_t kTakeBytes = 256 * 1024;
// RFC 9113, 10.5.1: a header list can be of any length where nobody limits it.
constexpr size_t kMaxHeaderBytes = 16 * 1024;

nghttp2_nv Header(std::string_view name, std::string_view value) {
  auto bytes = [](std::string_view text) {
    return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data()));
  };
  // libnghttp2 copies both before the call returns.
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

bool IsGrpc(std::string_view content_type) {
  constexpr std::string_view kType = "application/grpc";
  if (content_type.substr(0, kType.size()) != kType) return false;
  if (content_type.size() == kType.size()) return true;
  const char next = content_type[kType.size()];
  return next == '+' || next == ';';
}

std::string Prefixed(std::string_view message) {
  std::string bytes;
  bytes.reserve(kPrefixBytes + message.size());
  const auto length = static_cast<uint32_t>(message.size());
  bytes.push_back(0);
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(length >> shift & 0xff));
  bytes.append(message);
  return bytes;
}

}  // namespace

struct Session::Stream {
  // What is asked.
  std::string method;
  std::string path;
  std::string content_type;
  std::string encoding;
  std::string timeout;
  std::string body;
  size_t header_bytes = 0;
  bool has_headers = false;
  // What is answered. `calls`: an event has told of it, so its end is told too.
  bool calls = false;
  bool has_responded = false;
  bool has_ended = false;
  // libnghttp2 asks no more until it is told that there is more.
  bool is_deferred = false;
  std::string out;
  size_t out_at = 0;
  int status = kOk;
  std::string status_message;
  std::string status_code;

  size_t Queued() const { return out.size() - out_at; }

  std::vector<nghttp2_nv> Trailers(const std::string& status_text) const {
    std::vector<nghttp2_nv> trailers = {Header("grpc-status", status_text)};
    if (!status_message.empty()) trailers.push_back(Header("grpc-message", status_message));
    if (!status_code.empty()) trailers.push_back(Header("minke-code", status_code));
    return trailers;
  }
};

// What libnghttp2 calls. Everything that it says may be called from a callback is; sending and receiving are not.
struct Session::Callbacks {
  static Session* Of(void* user) { return static_cast<Session*>(user); }

  static int BeginHeaders(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
      Of(user)->streams_.emplace(frame->hd.stream_id, std::make_unique<Stream>());
    return 0;
  }

  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name_bytes, size_t name_length,
                      const uint8_t* value_bytes, size_t value_length, uint8_t, void* user) {
    Stream* stream = Of(user)->Find(frame->hd.stream_id);
    // A request's own trailers say nothing that gRPC knows.
    if (stream == nullptr || stream->has_headers) return 0;
    const std::string_view name(reinterpret_cast<const char*>(name_bytes), name_length);
    const std::string_view value(reinterpret_cast<const char*>(value_bytes), value_length);
    stream->header_bytes += name_length + value_length;
    if (stream->header_bytes > kMaxHeaderBytes) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (name == ":method") stream->method = value;
    if (name == ":path") stream->path = value;
    if (name == "content-type") stream->content_type = value;
    if (name == "grpc-encoding") stream->encoding = value;
    if (name == "grpc-timeout") stream->timeout = value;
    return 0;
  }

  static int OnData(nghttp2_session*, uint8_t, int32_t id, const uint8_t* bytes, size_t length, void* user) {
    Session* self = Of(user);
    Stream* stream = self->Find(id);
    if (stream == nullptr || stream->has_ended) return 0;
    stream->body.append(reinterpret_cast<const char*>(bytes), length);
    if (stream->body.size() < kPrefixBytes) return 0;
    const size_t wanted = self->WantedBytes(stream->body);
    if (wanted > self->max_message_bytes_) {
      self->Fail(id, kResourceExhausted,
                 "request of " + std::to_string(wanted) + " bytes: at most " +
                     std::to_string(self->max_message_bytes_) + " are taken",
                 "");
    } else if (stream->body.size() > kPrefixBytes + wanted) {
      self->Fail(id, kUnimplemented, "more than one request message: the method takes one", "");
    }
    return 0;
  }

  static int OnFrame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Stream* stream = Of(user)->Find(frame->hd.stream_id);
    if (stream == nullptr) return 0;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    stream->has_headers = true;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) Of(user)->Complete(frame->hd.stream_id, stream);
    return 0;
  }

  // RFC 9113, 8.1: who has answered before the request was whole says that the rest is not wanted. Not earlier: a
  // stream with a reset that waits sends nothing else.
  static int OnSent(nghttp2_session* session, const nghttp2_frame* frame, void*) {
    const int32_t id = frame->hd.stream_id;
    if (id != 0 && frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        nghttp2_session_get_stream_remote_close(session, id) == 0) {
      (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
    }
    return 0;
  }

  static int OnClose(nghttp2_session*, int32_t id, uint32_t, void* user) {
    Session* self = Of(user);
    const Stream* stream = self->Find(id);
    if (stream == nullptr) return 0;
    if (stream->calls && !stream->has_ended) self->events_.push_back({Event::Kind::kCancel, id, "", -1, ""});
    self->streams_.erase(id);
    return 0;
  }

  static ssize_t Read(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t length, uint32_t* flags,
                      nghttp2_data_source* source, void*) {
    auto* stream = static_cast<Stream*>(source->ptr);
    const size_t some = std::min(length, stream->Queued());
    memcpy(buffer, stream->out.data() + stream->out_at, some);
    stream->out_at += some;
    if (stream->Queued() > 0) return static_cast<ssize_t>(some);
    stream->out.clear();
    stream->out_at = 0;
    if (stream->has_ended) {
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
      const std::string status = std::to_string(stream->status);
      const std::vector<nghttp2_nv> trailers = stream->Trailers(status);
      (void)nghttp2_submit_trailer(session, id, trailers.data(), trailers.size());
    } else if (some == 0) {
      stream->is_deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(some);
  }
};

Session::Session(size_t max_message_bytes) : max_message_bytes_(max_message_bytes) {
  nghttp2_session_callbacks* callbacks;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, Callbacks::BeginHeaders);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, Callbacks::OnHeader);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Callbacks::OnData);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Callbacks::OnFrame);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, Callbacks::OnSent);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Callbacks::OnClose);
  nghttp2_option* option;
  nghttp2_option_new(&option);
  // Clients name the socket's path as ":authority", which is no authority (RFC 3986, 3.2) and would be refused.
  // What gRPC needs of HTTP's rules is checked in Complete.
  nghttp2_option_set_no_http_messaging(option, 1);
  // Streams that have ended are kept for priorities, which nobody uses here.
  nghttp2_option_set_no_closed_streams(option, 1);
  nghttp2_session_server_new2(&session_, callbacks, this, option);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kMaxConcurrentCalls},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindowBytes},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMaxHeaderBytes},
  };
  (void)nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  (void)nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindowBytes);
}

Session::~Session() { nghttp2_session_del(session_); }

bool Session::Receive(const uint8_t* bytes, size_t length) {
  return nghttp2_session_mem_recv(session_, bytes, length) >= 0;
}

std::vector<Event> Session::TakeEvents() { return std::exchange(events_, {}); }

Session::Stream* Session::Find(int32_t id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

size_t Session::WantedBytes(std::string_view body) const {
  size_t length = 0;
  for (size_t at = 1; at < kPrefixBytes; at++) length = length << 8 | static_cast<uint8_t>(body[at]);
  return length;
}

void Session::Complete(int32_t id, Stream* stream) {
  if (stream->has_ended) return;
  if (stream->method != "POST") return RefuseRequest(id, stream, "405");
  if (!IsGrpc(stream->content_type)) return RefuseRequest(id, stream, "415");
  Event event{Event::Kind::kCall, id, std::move(stream->path), -1, ""};
  if (!stream->timeout.empty() && !ParseTimeout(stream->timeout, &event.timeout_ms))
    return Fail(id, kInternal, "grpc-timeout \"" + stream->timeout + "\": up to 8 digits and one of HMSmun", "");
  if (stream->body.empty()) return Fail(id, kUnimplemented, "no request message: the method takes one", "");
  if (stream->body[0] != 0) {
    // https://github.com/grpc/grpc/blob/master/doc/compression.md: what says no encoding is broken, not unknown.
    if (stream->encoding.empty() || stream->encoding == "identity")
      return Fail(id, kInternal, "request message: it is compressed, and no encoding is named", "");
    return Fail(id, kUnimplemented, "request with encoding \"" + stream->encoding + "\": only identity is taken", "");
  }
  if (stream->body.size() < kPrefixBytes || stream->body.size() - kPrefixBytes < WantedBytes(stream->body))
    return Fail(id, kInternal, "request message: it ends before its length", "");
  stream->body.erase(0, kPrefixBytes);
  event.message = std::exchange(stream->body, {});
  stream->calls = true;
  events_.push_back(std::move(event));
}

void Session::RefuseRequest(int32_t id, Stream* stream, const char* http_status) {
  stream->has_ended = true;
  const nghttp2_nv headers[] = {Header(":status", http_status)};
  (void)nghttp2_submit_response(session_, id, headers, std::size(headers), nullptr);
}

void Session::Respond(int32_t id, Stream* stream) {
  if (stream->has_responded) {
    if (!stream->is_deferred) return;
    stream->is_deferred = false;
    (void)nghttp2_session_resume_data(session_, id);
    return;
  }
  stream->has_responded = true;
  const nghttp2_nv headers[] = {Header(":status", "200"), Header("content-type", "application/grpc")};
  nghttp2_data_provider provider{{.ptr = stream}, Callbacks::Read};
  (void)nghttp2_submit_response(session_, id, headers, std::size(headers), &provider);
}

void Session::Answer(int32_t id, std::string_view message) {
  Stream* stream = Find(id);
  if (stream == nullptr || stream->has_ended) return;
  stream->out.append(Prefixed(message));
  stream->has_ended = true;
  Respond(id, stream);
}

void Session::Write(int32_t id, std::string_view message) {
  Stream* stream = Find(id);
  if (stream == nullptr || stream->has_ended) return;
  stream->out.append(Prefixed(message));
  Respond(id, stream);
}

void Session::End(int32_t id) {
  Stream* stream = Find(id);
  if (stream == nullptr || stream->has_ended) return;
  stream->has_ended = true;
  Respond(id, stream);
}

void Session::Fail(int32_t id, int status, std::string_view message, std::string_view code) {
  Stream* stream = Find(id);
  if (stream == nullptr || stream->has_ended) return;
  stream->has_ended = true;
  stream->body = {};
  stream->status = status;
  stream->status_message = PercentEncode(message);
  stream->status_code = code;
  if (stream->has_responded) return Respond(id, stream);
  // "Trailers-Only": the one header block ends the stream.
  stream->has_responded = true;
  const std::string status_text = std::to_string(status);
  std::vector<nghttp2_nv> headers = {Header(":status", "200"), Header("content-type", "application/grpc")};
  const std::vector<nghttp2_nv> trailers = stream->Trailers(status_text);
  headers.insert(headers.end(), trailers.begin(), trailers.end());
  (void)nghttp2_submit_response(session_, id, headers.data(), headers.size(), nullptr);
}

size_t Session::Queued(int32_t id) const {
  const Stream* stream = Find(id);
  return stream == nullptr ? 0 : stream->Queued();
}

std::string Session::Take() {
  std::string bytes;
  while (bytes.size() < kTakeBytes) {
    const uint8_t* some;
    const ssize_t length = nghttp2_session_mem_send(session_, &some);
    if (length <= 0) break;
    bytes.append(reinterpret_cast<const char*>(some), static_cast<size_t>(length));
  }
  return bytes;
}

void Session::GoAway() {
  (void)nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                              NGHTTP2_NO_ERROR, nullptr, 0);
}

bool Session::IsOver() const {
  return nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0;
}

bool ParseTimeout(std::string_view text, double* ms) {
  // gRPC over HTTP/2, "Timeout": a positive integer of at most 8 digits, and its unit.
  if (text.size() < 2 || text.size() > 9) return false;
  uint32_t value = 0;
  for (const char digit : text.substr(0, text.size() - 1)) {
    if (digit < '0' || digit > '9') return false;
    value = value * 10 + static_cast<uint32_t>(digit - '0');
  }
  switch (text.back()) {
    case 'H': *ms = value * 3'600'000.0; return true;
    case 'M': *ms = value * 60'000.0; return true;
    case 'S': *ms = value * 1000.0; return true;
    case 'm': *ms = value; return true;
    case 'u': *ms = value / 1000.0; return true;
    case 'n': *ms = value / 1'000'000.0; return true;
    default: return false;
  }
}

std::string PercentEncode(std::string_view message) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(message.size());
  for (const char each : message) {
    const auto byte = static_cast<uint8_t>(each);
    if (byte >= 0x20 && byte <= 0x7e && byte != '%') {
      encoded.push_back(each);
      continue;
    }
    encoded.push_back('%');
    encoded.push_back(kDigits[byte >> 4]);
    encoded.push_back(kDigits[byte & 0xf]);
  }
  return encoded;
}

}  // namespace grpc
