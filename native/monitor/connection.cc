#include "monitor/connection.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <utility>

#include "monitor/stdio.h"

namespace monitor {
namespace {

constexpr int64_t kHelloDeadlineMs = 10'000;
constexpr int64_t kLingerMs = 10'000;
// Answers of capture execs are large; everything beyond this is a client that does not read.
constexpr size_t kMaxControlQueueBytes = 64 * 1024 * 1024;
// While more than this waits for a control client, its next requests are not read.
constexpr size_t kControlHighWaterBytes = 1024 * 1024;
constexpr size_t kHeaderBytes = 4;

void PutLength(char* out, size_t size) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<char>(size >> (8 * i) & 0xff);
}

size_t GetLength(const char* in) {
  size_t size = 0;
  for (int i = 0; i < 4; ++i) size |= static_cast<size_t>(static_cast<uint8_t>(in[i])) << (8 * i);
  return size;
}

std::string ErrorJson(const char* code, std::string_view message) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  writer.StartObject();
  writer.Key("error");
  writer.StartObject();
  writer.Key("code");
  writer.String(code);
  writer.Key("message");
  PutString(&writer, message);
  writer.EndObject();
  writer.EndObject();
  return std::string(text.GetString(), text.GetSize());
}

}  // namespace

Connection::Connection(Loop* loop, ConnectionOwner* owner, sys::UniqueFd socket, uint64_t serial)
    : owner_(owner), serial_(serial), socket_(std::move(socket)), watch_(loop, this), hello_alarm_(loop, this) {}

Connection::~Connection() = default;

bool Connection::Start() {
  hello_alarm_.ArmIn(kHelloDeadlineMs);
  return watch_.Start(socket_.get(), EPOLLIN);
}

void Connection::OnHelloDeadline() {
  // Also the deadline of a closing connection whose client does not take the last bytes.
  Close();
}

void Connection::BecomeControl() {
  role_ = Role::kControl;
  hello_alarm_.Disarm();
}

void Connection::BecomeStream(StreamPeer* peer) {
  role_ = Role::kStream;
  peer_ = peer;
  hello_alarm_.Disarm();
}

void Connection::SendJson(std::string_view json) {
  if (role_ == Role::kClosed || role_ == Role::kClosing) return;
  if (queued_bytes() + json.size() > kMaxControlQueueBytes) {
    Close();
    return;
  }
  char header[kHeaderBytes];
  PutLength(header, json.size());
  Queue(std::string_view(header, sizeof header), json);
}

void Connection::Refuse(const char* code, std::string_view message) {
  SendJson(ErrorJson(code, message));
  CloseWhenFlushed();
}

void Connection::SendChannel(uint8_t channel, std::string_view bytes) {
  if (role_ != Role::kStream) return;
  char header[kHeaderBytes + 1];
  PutLength(header, bytes.size() + 1);
  header[kHeaderBytes] = static_cast<char>(channel);
  Queue(std::string_view(header, sizeof header), bytes);
}

void Connection::FinishStream(int exit_code) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  writer.StartObject();
  writer.Key("exitCode");
  writer.Int(exit_code);
  writer.EndObject();
  SendChannel(kStatusChannel, std::string_view(text.GetString(), text.GetSize()));
  CloseWhenFlushed();
}

void Connection::FailStream(const char* code, const char* message) {
  SendChannel(kStatusChannel, ErrorJson(code, message));
  CloseWhenFlushed();
}

void Connection::CloseWhenFlushed() {
  if (role_ == Role::kClosed) return;
  role_ = Role::kClosing;
  peer_ = nullptr;
  hello_alarm_.ArmIn(kLingerMs);
  if (queued_bytes() == 0) HangUp();
  if (role_ != Role::kClosed) UpdateEvents();
}

// The last bytes are sent. What the client is still sending is taken and dropped until it has seen
// them: a write to a closed socket fails with EPIPE, over which clients forget what they could read.
void Connection::HangUp() {
  if (at_end_ || ::shutdown(socket_.get(), SHUT_WR) < 0) Close();
}

void Connection::DropInput() {
  const ssize_t size = ::recv(socket_.get(), owner_->read_buffer(), Scratch::kReadBytes, MSG_DONTWAIT);
  if (size == 0) at_end_ = true;
  const bool has_failed = size < 0 && errno != EAGAIN && errno != EINTR;
  if (has_failed || (at_end_ && queued_bytes() == 0)) Close();
}

void Connection::Close() {
  if (role_ == Role::kClosed) return;
  role_ = Role::kClosed;
  watch_.Stop();
  hello_alarm_.Disarm();
  socket_.reset();
  StreamPeer* const peer = std::exchange(peer_, nullptr);
  if (peer != nullptr) peer->OnStreamClosed(this);
  owner_->OnConnectionClosed(this);
}

bool Connection::MayRead() const {
  switch (role_) {
    case Role::kUnknown:
      return true;
    case Role::kControl:
      return queued_bytes() <= kControlHighWaterBytes;
    case Role::kStream:
      return !peer_->IsInputCongested();
    default:
      return false;
  }
}

// Without any interest the descriptor is taken out of epoll, which would report a hang-up again
// and again while bytes of a client that has gone still wait to be read. Where the peer ends
// with its client the hang-up is wanted: those bytes are lost with it.
void Connection::UpdateEvents() {
  if (role_ == Role::kClosed) return;
  const bool reads = !at_end_ && (MayRead() || role_ == Role::kClosing);
  const uint32_t events = (reads ? EPOLLIN : 0u) | (queued_bytes() > 0 ? EPOLLOUT : 0u);
  if (events == 0 && !(peer_ != nullptr && peer_->DiesWithClient())) {
    watch_.Stop();
  } else if (watch_.watching()) {
    watch_.SetEvents(events);
  } else if (!watch_.Start(socket_.get(), events)) {
    Close();
  }
}

void Connection::Queue(std::string_view header, std::string_view body) {
  if (queued_bytes() == 0) {
    iovec parts[2] = {{const_cast<char*>(header.data()), header.size()}, {const_cast<char*>(body.data()), body.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    // Any failure but a full buffer is seen again, and handled, by the loop.
    if (sent < 0) sent = 0;
    const auto skip = [&sent](std::string_view part) {
      const size_t gone = std::min(static_cast<size_t>(sent), part.size());
      sent -= static_cast<ssize_t>(gone);
      return part.substr(gone);
    };
    header = skip(header);
    body = skip(body);
    if (body.empty() && header.empty()) return;
  }
  queue_.append(header);
  queue_.append(body);
  UpdateEvents();
}

void Connection::Flush() {
  const ssize_t sent =
      ::send(socket_.get(), queue_.data() + queue_sent_, queued_bytes(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) Close();
    return;
  }
  queue_sent_ += static_cast<size_t>(sent);
  if (queued_bytes() > 0) {
    // Keeps the sent part from growing without moving the rest each time.
    if (queue_sent_ >= kControlHighWaterBytes) {
      queue_.erase(0, queue_sent_);
      queue_sent_ = 0;
    }
    return;
  }
  std::string().swap(queue_);
  queue_sent_ = 0;
  if (role_ == Role::kClosing) {
    HangUp();
    return;
  }
  if (peer_ != nullptr) peer_->OnStreamFlushed(this);
  ResumeReading();
}

void Connection::OnReady(uint32_t events) {
  if (queued_bytes() > 0 && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) Flush();
  if (role_ == Role::kClosed) return;
  if (role_ == Role::kClosing) {
    if ((events & EPOLLIN) != 0) DropInput();
    if (role_ == Role::kClosed) return;
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) return Close();
    UpdateEvents();
    return;
  }
  if (MayRead()) {
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) ReadSome();
  } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    Close();
  }
  if (role_ != Role::kClosed) UpdateEvents();
}

void Connection::ResumeReading() {
  if (role_ == Role::kClosed || role_ == Role::kClosing) return;
  TakeFrames();
  if (role_ != Role::kClosed) UpdateEvents();
}

void Connection::ReadSome() {
  const ssize_t size = ::recv(socket_.get(), owner_->read_buffer(), Scratch::kReadBytes, MSG_DONTWAIT);
  if (size < 0) {
    if (errno != EAGAIN && errno != EINTR) Close();
    return;
  }
  if (size == 0) {
    at_end_ = true;
    Close();
    return;
  }
  input_.append(owner_->read_buffer(), static_cast<size_t>(size));
  TakeFrames();
}

void Connection::TakeFrames() {
  size_t taken = 0;
  while (MayRead() && input_.size() - taken >= kHeaderBytes) {
    const size_t size = GetLength(input_.data() + taken);
    const size_t limit = role_ == Role::kStream ? kMaxStreamFrameBytes : kMaxRequestBytes;
    if (size > limit || size == 0) {
      const char* const message = "a frame has no bytes or more than its limit";
      role_ == Role::kStream ? FailStream("FRAME_TOO_LARGE", message) : Refuse("FRAME_TOO_LARGE", message);
      return;
    }
    if (input_.size() - taken - kHeaderBytes < size) break;
    char* const frame = input_.data() + taken + kHeaderBytes;
    taken += kHeaderBytes + size;
    if (!TakeFrame(frame, size)) return;
  }
  if (role_ == Role::kClosed || role_ == Role::kClosing) return;
  input_.erase(0, taken);
  if (input_.empty()) std::string().swap(input_);
}

// False: the connection is closing or closed, and its input is gone.
bool Connection::TakeFrame(char* frame, size_t size) {
  if (role_ == Role::kStream) {
    TakeStreamFrame(static_cast<uint8_t>(frame[0]), std::string_view(frame + 1, size - 1));
  } else {
    JsonFrame json;
    if (!json.Parse(frame, size)) {
      Refuse("BAD_FRAME", "a frame is not one JSON object of at most 32 levels");
    } else if (role_ == Role::kUnknown) {
      owner_->OnHello(this, json.root());
    } else {
      owner_->OnRequest(this, json.root());
    }
  }
  return role_ != Role::kClosed && role_ != Role::kClosing;
}

void Connection::TakeStreamFrame(uint8_t channel, std::string_view bytes) {
  if (channel == kStdinChannel) {
    peer_->OnStreamInput(this, bytes);
  } else if (channel == kCloseChannel) {
    if (bytes.size() == 1 && bytes[0] == kStdinChannel) peer_->OnStreamInputEnd(this);
  } else if (channel == kResizeChannel) {
    std::string text(bytes);
    JsonFrame json;
    if (!json.Parse(text.data(), text.size())) return;
    Params size(&json.root());
    const auto columns = static_cast<unsigned>(size.Unsigned("Width", UINT16_MAX));
    const auto rows = static_cast<unsigned>(size.Unsigned("Height", UINT16_MAX));
    if (size.ok()) peer_->OnStreamResize(columns, rows);
  } else {
    FailStream("BAD_FRAME", "a stream frame has an unknown channel");
  }
}

}  // namespace monitor
