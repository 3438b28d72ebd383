// One client's connection: framing both ways, bounded queues, hello first.
//
// A connection begins without a role; its hello makes it a control client (JSON requests) or a
// stream client (channels of one container or exec). What frames mean is decided in Methods and
// in the StreamPeer. PROTOCOL.md has the format.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <string_view>

#include "monitor/json.h"
#include "monitor/loop.h"
#include "sys/unique_fd.h"

namespace monitor {

class Connection;

// Numbers of the channels, as v5.channel.k8s.io has them.
enum Channel : uint8_t { kStdinChannel = 0, kStatusChannel = 3, kResizeChannel = 4, kCloseChannel = 255 };

// The container or exec at the other side of a stream connection.
class StreamPeer {
 public:
  virtual ~StreamPeer() = default;
  virtual void OnStreamInput(Connection* client, std::string_view bytes) = 0;
  virtual void OnStreamInputEnd(Connection* client) = 0;
  virtual void OnStreamResize(unsigned columns, unsigned rows) = 0;
  // No more input can be taken for now: the client is not read until ResumeReading().
  virtual bool IsInputCongested() const = 0;
  // The peer ends when its client goes, whatever the client has sent before.
  virtual bool DiesWithClient() const = 0;
  // The queue towards the client is empty again.
  virtual void OnStreamFlushed(Connection* client) = 0;
  // The client is gone; it must not be used again.
  virtual void OnStreamClosed(Connection* client) = 0;
};

// The monitor as connections see it.
class ConnectionOwner {
 public:
  virtual ~ConnectionOwner() = default;
  virtual void OnHello(Connection* client, const JsonValue& hello) = 0;
  virtual void OnRequest(Connection* client, const JsonValue& request) = 0;
  // Removes the connection; it may still be on the stack.
  virtual void OnConnectionClosed(Connection* client) = 0;
  virtual char* read_buffer() = 0;
};

class Connection final : public Mortal {
 public:
  static constexpr size_t kMaxRequestBytes = 1024 * 1024;
  static constexpr size_t kMaxStreamFrameBytes = 64 * 1024 + 1;
  // More than this waiting for a stream client: it is too slow.
  static constexpr size_t kMaxStreamQueueBytes = 1024 * 1024;

  Connection(Loop* loop, ConnectionOwner* owner, sys::UniqueFd socket, uint64_t serial);
  ~Connection() override;

  // Begins watching and waits for the client's hello for a limited time.
  bool Start();
  uint64_t serial() const { return serial_; }
  bool is_control() const { return role_ == Role::kControl; }

  void BecomeControl();
  void BecomeStream(StreamPeer* peer);

  // One JSON frame. Events are dropped together with the client where it does not read them.
  void SendJson(std::string_view json);
  // An error that ends the connection: {"error":{"code","message"}}.
  void Refuse(const char* code, std::string_view message);

  void SendChannel(uint8_t channel, std::string_view bytes);
  size_t queued_bytes() const { return queue_.size() - queue_sent_; }
  // The last frame of a stream, {"exitCode":n}; then the connection closes when all is sent.
  void FinishStream(int exit_code);
  void FailStream(const char* code, const char* message);
  void ResumeReading();
  void Close();

 private:
  enum class Role : uint8_t { kUnknown, kControl, kStream, kClosing, kClosed };

  void OnReady(uint32_t events);
  void OnHelloDeadline();
  void ReadSome();
  void TakeFrames();
  bool TakeFrame(char* frame, size_t size);
  void TakeStreamFrame(uint8_t channel, std::string_view bytes);
  bool MayRead() const;
  void UpdateEvents();
  void Queue(std::string_view header, std::string_view body);
  void HangUp();
  void DropInput();
  void Flush();
  void CloseWhenFlushed();

  ConnectionOwner* const owner_;
  const uint64_t serial_;
  sys::UniqueFd socket_;
  Role role_ = Role::kUnknown;
  StreamPeer* peer_ = nullptr;
  bool at_end_ = false;  // the client has closed its side
  std::string input_;
  std::string queue_;
  size_t queue_sent_ = 0;
  Watch<Connection, &Connection::OnReady> watch_;
  Alarm<Connection, &Connection::OnHelloDeadline> hello_alarm_;
};

}  // namespace monitor
