// The monitor's ends of a process's standard streams: pipes, or the master of its terminal.
//
// Know bytes and back-pressure, nothing of logs or clients.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <string_view>

#include "monitor/log_writer.h"
#include "monitor/loop.h"
#include "sys/unique_fd.h"

namespace monitor {

// One buffer for reading and one for formatting, shared by everything in the monitor, and given
// back to the kernel after a burst.
class Scratch {
 public:
  static constexpr size_t kReadBytes = 64 * 1024;

  explicit Scratch(Loop* loop) : trim_alarm_(loop, this) {}
  bool Open();
  char* read_buffer() const { return memory_; }
  char* log_buffer() const { return memory_ + kReadBytes; }
  // Tells that `size` bytes have gone through; a second after a burst the memory is given back.
  void Used(size_t size);
  // The heap has held something large, such as a spec.
  void TrimSoon() { if (!trim_alarm_.armed()) trim_alarm_.ArmIn(kTrimAfterMs); }

 private:
  static constexpr int64_t kTrimAfterMs = 1000;

  void Trim();

  char* memory_ = nullptr;
  Alarm<Scratch, &Scratch::Trim> trim_alarm_;
};

class OutputReader {
 public:
  virtual ~OutputReader() = default;
  virtual void OnOutput(Stream stream, std::string_view bytes) = 0;
  // The stream is at its end, or was closed; called once for each opened stream.
  virtual void OnOutputEnd(Stream stream) = 0;
};

class Output {
 public:
  Output(Loop* loop, Scratch* scratch, OutputReader* reader, Stream stream)
      : scratch_(scratch), reader_(reader), stream_(stream), watch_(loop, this) {}

  // `is_paused`: nothing is read before Resume().
  void Open(sys::UniqueFd fd, bool is_paused);
  void Pause() { watch_.Stop(); is_paused_ = true; }
  void Resume();
  void Close();  // tells the reader
  bool is_open() const { return fd_.valid(); }

  // The process has ended: what is in the pipe now is still owed to the reader, later bytes of
  // processes that inherited the pipe are not.
  void NoteProcessEnd();
  // All that was owed has been read.
  bool is_settled() const { return !is_open() || owed_bytes_ <= 0; }

 private:
  void OnReady(uint32_t events);

  Scratch* const scratch_;
  OutputReader* const reader_;
  const Stream stream_;
  sys::UniqueFd fd_;
  bool is_paused_ = false;
  bool is_grown_ = false;
  int64_t owed_bytes_ = 0;
  Watch<Output, &Output::OnReady> watch_;
};

class InputWriter {
 public:
  virtual ~InputWriter() = default;
  // Everything given to Write() has been taken by the pipe, after IsCongested() was true.
  virtual void OnInputDrained() = 0;
};

class Input {
 public:
  Input(Loop* loop, InputWriter* writer) : writer_(writer), watch_(loop, this) {}

  void Open(sys::UniqueFd fd, bool is_terminal);
  // Takes all of it; the caller gives no more while IsCongested(). Ignored once closed.
  void Write(std::string_view bytes);
  bool IsCongested() const { return !pending_.empty(); }
  // Closes when all is written. A terminal has no half close: nothing happens.
  void End();
  void Close();

 private:
  void OnReady(uint32_t events);

  InputWriter* const writer_;
  sys::UniqueFd fd_;
  bool is_terminal_ = false;
  bool is_ending_ = false;
  std::string pending_;
  Watch<Input, &Input::OnReady> watch_;
};

}  // namespace monitor
