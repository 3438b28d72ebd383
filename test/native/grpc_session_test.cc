// A session against libnghttp2's own client: what is asked, what is answered, and what is refused.
#include <doctest/doctest.h>
#include <string.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "grpc/session.h"

namespace {

constexpr size_t kMaxMessageBytes = 100'000;
using Headers = std::vector<std::pair<std::string, std::string>>;

// What has come back of one request.
struct Reply {
  Headers headers;
  std::string body;
  bool is_closed = false;
  uint32_t error_code = 0;

  std::string Of(const std::string& name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return "";
  }
};

std::string Message(const std::string& text) {
  std::string bytes(5, '\0');
  for (int at = 0; at < 4; at++) bytes[4 - at] = static_cast<char>(text.size() >> (8 * at) & 0xff);
  return bytes + text;
}

Headers CallHeaders(const std::string& path = "/s/M") {
  return {{":method", "POST"},
          {":scheme", "http"},
          {":path", path},
          {":authority", "localhost"},
          {"content-type", "application/grpc"},
          {"te", "trailers"}};
}

class Client {
 public:
  explicit Client(size_t max_message_bytes = kMaxMessageBytes) : server(max_message_bytes) {
    nghttp2_session_callbacks* callbacks;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, OnHeader);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, OnData);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, OnClose);
    nghttp2_option* option;
    nghttp2_option_new(&option);
    nghttp2_option_set_no_http_messaging(option, 1);
    nghttp2_session_client_new2(&session_, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
  }
  ~Client() { nghttp2_session_del(session_); }

  // A request; `ends` where its stream ends with the body.
  int32_t Ask(const Headers& headers, const std::string& body, bool ends = true) {
    std::vector<nghttp2_nv> values;
    for (const auto& [name, value] : headers) {
      auto bytes = [](const std::string& text) { return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data())); };
      values.push_back({bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
    }
    auto* out = new Out{body, 0, ends};
    nghttp2_data_provider provider{{.ptr = out}, Read};
    const int32_t id = nghttp2_submit_request(session_, nullptr, values.data(), values.size(), &provider, nullptr);
    outs_[id].reset(out);
    return id;
  }

  void Cancel(int32_t id) { nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL); }

  // Moves bytes both ways, in pieces of `piece`, until neither side has any; what was asked is kept in `events`.
  void Exchange(size_t piece = 16384) {
    for (bool moved = true; moved;) {
      moved = false;
      const uint8_t* bytes;
      for (ssize_t length; (length = nghttp2_session_mem_send(session_, &bytes)) > 0;) {
        moved = true;
        for (ssize_t at = 0; at < length; at += static_cast<ssize_t>(piece))
          REQUIRE(server.Receive(bytes + at, std::min(piece, static_cast<size_t>(length - at))));
      }
      for (grpc::Event& event : server.TakeEvents()) events.push_back(std::move(event));
      for (std::string some; !(some = server.Take()).empty();) {
        moved = true;
        REQUIRE(nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(some.data()), some.size()) ==
                static_cast<ssize_t>(some.size()));
      }
    }
  }

  grpc::Session server;
  std::vector<grpc::Event> events;
  std::map<int32_t, Reply> replies;

 private:
  struct Out {
    std::string body;
    size_t at;
    bool ends;
  };

  static ssize_t Read(nghttp2_session*, int32_t, uint8_t* buffer, size_t length, uint32_t* flags,
                      nghttp2_data_source* source, void*) {
    auto* out = static_cast<Out*>(source->ptr);
    const size_t some = std::min(length, out->body.size() - out->at);
    memcpy(buffer, out->body.data() + out->at, some);
    out->at += some;
    if (out->at < out->body.size()) return static_cast<ssize_t>(some);
    if (out->ends) *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (!out->ends && some == 0) return NGHTTP2_ERR_DEFERRED;
    return static_cast<ssize_t>(some);
  }

  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                      const uint8_t* value, size_t value_length, uint8_t, void* user) {
    static_cast<Client*>(user)->replies[frame->hd.stream_id].headers.emplace_back(
        std::string(reinterpret_cast<const char*>(name), name_length),
        std::string(reinterpret_cast<const char*>(value), value_length));
    return 0;
  }
  static int OnData(nghttp2_session*, uint8_t, int32_t id, const uint8_t* bytes, size_t length, void* user) {
    static_cast<Client*>(user)->replies[id].body.append(reinterpret_cast<const char*>(bytes), length);
    return 0;
  }
  static int OnClose(nghttp2_session*, int32_t id, uint32_t error_code, void* user) {
    Reply& reply = static_cast<Client*>(user)->replies[id];
    reply.is_closed = true;
    reply.error_code = error_code;
    return 0;
  }

  nghttp2_session* session_;
  std::map<int32_t, std::unique_ptr<Out>> outs_;
};

// What a request that is refused is told.
Reply RefusalOf(const Headers& headers, const std::string& body) {
  Client client;
  const int32_t id = client.Ask(headers, body);
  client.Exchange();
  CHECK(client.events.empty());
  CHECK(client.replies[id].is_closed);
  return client.replies[id];
}

}  // namespace

TEST_CASE("a unary call is told whole and its answer arrives with status 0") {
  Client client;
  const int32_t id = client.Ask(CallHeaders("/runtime.v1.RuntimeService/Version"), Message("asked"));
  client.Exchange();
  REQUIRE(client.events.size() == 1);
  CHECK(client.events[0].kind == grpc::Event::Kind::kCall);
  CHECK(client.events[0].stream == id);
  CHECK(client.events[0].path == "/runtime.v1.RuntimeService/Version");
  CHECK(client.events[0].message == "asked");
  CHECK(client.events[0].timeout_ms < 0);
  client.server.Answer(id, "answered");
  client.Exchange();
  const Reply& reply = client.replies[id];
  CHECK(reply.Of(":status") == "200");
  CHECK(reply.Of("content-type") == "application/grpc");
  CHECK(reply.Of("grpc-status") == "0");
  CHECK(reply.body == Message("answered"));
  CHECK(reply.is_closed);
  CHECK(reply.error_code == NGHTTP2_NO_ERROR);
  CHECK(client.events.size() == 1);
}

TEST_CASE("a call that arrives byte by byte is the same call") {
  Client client;
  client.Ask(CallHeaders(), Message("a message"));
  client.Exchange(1);
  REQUIRE(client.events.size() == 1);
  CHECK(client.events[0].message == "a message");
}

TEST_CASE("an empty message is a call and an answer") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  REQUIRE(client.events.size() == 1);
  CHECK(client.events[0].message.empty());
  client.server.Answer(id, "");
  client.Exchange();
  CHECK(client.replies[id].body == Message(""));
  CHECK(client.replies[id].Of("grpc-status") == "0");
}

TEST_CASE("the authority of a caller may be the path of the socket") {
  Client client;
  Headers headers = CallHeaders();
  headers[3].second = "/run/minke/cri.sock";
  client.Ask(headers, Message(""));
  client.Exchange();
  CHECK(client.events.size() == 1);
}

TEST_CASE("messages beyond all windows arrive whole both ways") {
  constexpr size_t kBytes = 5'000'000;
  Client client(kBytes);
  const int32_t id = client.Ask(CallHeaders(), Message(std::string(kBytes, 'q')));
  client.Exchange();
  REQUIRE(client.events.size() == 1);
  CHECK(client.events[0].message == std::string(kBytes, 'q'));
  client.server.Answer(id, std::string(kBytes, 'a'));
  client.Exchange();
  CHECK(client.replies[id].body == Message(std::string(kBytes, 'a')));
  CHECK(client.replies[id].Of("grpc-status") == "0");
}

TEST_CASE("a failure arrives with its status, its text and its code") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  client.server.Fail(id, 5, "no \"50%\" of caf\xC3\xA9\n", "IMAGE_NOT_FOUND");
  client.Exchange();
  const Reply& reply = client.replies[id];
  CHECK(reply.Of("grpc-status") == "5");
  CHECK(reply.Of("grpc-message") == "no \"50%25\" of caf%C3%A9%0A");
  CHECK(reply.Of("minke-code") == "IMAGE_NOT_FOUND");
  CHECK(reply.body.empty());
  CHECK(reply.error_code == NGHTTP2_NO_ERROR);
}

TEST_CASE("a stream's answers arrive in order, then its status") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  client.server.Write(id, "one");
  client.Exchange();
  CHECK(client.replies[id].body == Message("one"));
  CHECK_FALSE(client.replies[id].is_closed);
  client.server.Write(id, "two");
  client.server.Write(id, "three");
  CHECK(client.server.Queued(id) == 2 * 5 + 8);
  client.Exchange();
  CHECK(client.server.Queued(id) == 0);
  client.server.End(id);
  client.Exchange();
  CHECK(client.replies[id].body == Message("one") + Message("two") + Message("three"));
  CHECK(client.replies[id].Of("grpc-status") == "0");
  CHECK(client.replies[id].is_closed);
}

TEST_CASE("a stream that fails half-way keeps what it has sent and says why") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  client.server.Write(id, "one");
  client.Exchange();
  client.server.Fail(id, 14, "gone", "X");
  client.Exchange();
  CHECK(client.replies[id].body == Message("one"));
  CHECK(client.replies[id].Of("grpc-status") == "14");
  CHECK(client.replies[id].Of("grpc-message") == "gone");
}

TEST_CASE("a call that is given up is told once, and its answer goes nowhere") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  client.Cancel(id);
  client.Exchange();
  REQUIRE(client.events.size() == 2);
  CHECK(client.events[1].kind == grpc::Event::Kind::kCancel);
  CHECK(client.events[1].stream == id);
  client.server.Answer(id, "late");
  client.server.Fail(id, 13, "late", "");
  client.Exchange();
  CHECK(client.replies[id].body.empty());
  CHECK(client.events.size() == 2);
}

TEST_CASE("a call that ends before it was told is not told") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message("half"), false);
  client.Exchange();
  client.Cancel(id);
  client.Exchange();
  CHECK(client.events.empty());
}

TEST_CASE("requests that are no call of gRPC are refused in HTTP's words") {
  Headers get = CallHeaders();
  get[0].second = "GET";
  CHECK(RefusalOf(get, "").Of(":status") == "405");
  Headers json = CallHeaders();
  json[4].second = "application/json";
  CHECK(RefusalOf(json, "{}").Of(":status") == "415");
  Headers web = CallHeaders();
  web[4].second = "application/grpc-web";
  CHECK(RefusalOf(web, "").Of(":status") == "415");
}

TEST_CASE("bodies that are not one message are refused by name") {
  const std::string two = Message("one") + Message("two");
  CHECK(RefusalOf(CallHeaders(), "").Of("grpc-status") == "12");
  CHECK(RefusalOf(CallHeaders(), two).Of("grpc-status") == "12");
  CHECK(RefusalOf(CallHeaders(), Message("short").substr(0, 7)).Of("grpc-status") == "13");
  CHECK(RefusalOf(CallHeaders(), std::string(3, '\0')).Of("grpc-status") == "13");
  std::string compressed = Message("x");
  compressed[0] = 1;
  CHECK(RefusalOf(CallHeaders(), compressed).Of("grpc-status") == "13");
  Headers zipped = CallHeaders();
  zipped.emplace_back("grpc-encoding", "gzip");
  CHECK(RefusalOf(zipped, compressed).Of("grpc-status") == "12");
}

TEST_CASE("a message that is too long is refused as soon as it says so") {
  Client client;
  const std::string head = Message(std::string(kMaxMessageBytes + 1, 'x')).substr(0, 5);
  const int32_t id = client.Ask(CallHeaders(), head, false);
  client.Exchange();
  CHECK(client.replies[id].Of("grpc-status") == "8");
  CHECK(client.replies[id].Of("grpc-message").find("100001 bytes") != std::string::npos);
  CHECK(client.replies[id].is_closed);
  CHECK(client.events.empty());
  // The connection serves on.
  client.Ask(CallHeaders(), Message(std::string(kMaxMessageBytes, 'x')));
  client.Exchange();
  CHECK(client.events.size() == 1);
}

TEST_CASE("headers without limit end their stream alone") {
  Client client;
  Headers headers = CallHeaders();
  headers.emplace_back("x-long", std::string(20'000, 'x'));
  const int32_t id = client.Ask(headers, Message(""));
  client.Exchange();
  CHECK(client.replies[id].is_closed);
  CHECK(client.events.empty());
  client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  CHECK(client.events.size() == 1);
}

TEST_CASE("timeouts are read in all units and refused otherwise") {
  double ms = 0;
  const std::pair<const char*, double> good[] = {{"2H", 7.2e6}, {"3M", 1.8e5}, {"20S", 2e4},
                                                 {"5m", 5},     {"1500u", 1.5}, {"99999999n", 99.999999}};
  for (const auto& [text, expected] : good) {
    REQUIRE_MESSAGE(grpc::ParseTimeout(text, &ms), text);
    CHECK(ms == doctest::Approx(expected));
  }
  for (const char* text : {"", "S", "5", "5s", "-5S", "1.5S", "123456789S", "5 S"})
    CHECK_MESSAGE(!grpc::ParseTimeout(text, &ms), text);

  Client client;
  Headers headers = CallHeaders();
  headers.emplace_back("grpc-timeout", "1500m");
  client.Ask(headers, Message(""));
  client.Exchange();
  REQUIRE(client.events.size() == 1);
  CHECK(client.events[0].timeout_ms == 1500);
  headers.back().second = "soon";
  CHECK(RefusalOf(headers, Message("")).Of("grpc-status") == "13");
}

TEST_CASE("a peer that speaks no HTTP/2 is noticed at once") {
  grpc::Session session(kMaxMessageBytes);
  const std::string http1 = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
  CHECK_FALSE(session.Receive(reinterpret_cast<const uint8_t*>(http1.data()), http1.size()));
}

TEST_CASE("after going away calls under way end, new ones are left, and then all is over") {
  Client client;
  const int32_t id = client.Ask(CallHeaders(), Message(""));
  client.Exchange();
  client.server.GoAway();
  client.Exchange();
  CHECK_FALSE(client.server.IsOver());
  client.server.Answer(id, "done");
  client.Exchange();
  CHECK(client.replies[id].Of("grpc-status") == "0");
  CHECK(client.server.IsOver());
  CHECK(client.events.size() == 1);
}
