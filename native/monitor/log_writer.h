// Writes one container's output as a CRI log: `<time> <stream> F|P <line>\n`.
//
// Knows files and lines, nothing of containers or clients. A line is held until it is whole or
// 16 KiB long; records are gathered and written with one write(2) each time. Where writing fails
// (a full disk), whole records are dropped and counted, and a record saying so is written once
// space is back: the container never waits for its log.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace monitor {

enum class Stream : uint8_t { kStdout = 1, kStderr = 2 };  // numbers of the stream channels

struct LogSettings {
  std::string path;        // absolute
  uint64_t max_bytes = 0;  // 0: never rotated
  unsigned max_files = 1;  // in all, the one being written included: path, path.1, ... path.<n-1>
};

class LogWriter {
 public:
  // Content of one record at most, in bytes; longer lines become several, all but the last `P`.
  static constexpr size_t kMaxContentBytes = 16 * 1024;
  static constexpr size_t kBufferBytes = 128 * 1024;

  // Opens or makes the file (0640, appended to). `buffer` has kBufferBytes, is borrowed, and is
  // empty between calls, so that all writers of a monitor share one.
  // Errors: those of open(2); ELOOP for a symbolic link; EINVAL for what is no regular file.
  sys::Result<void> Open(LogSettings settings, char* buffer);
  bool is_open() const { return file_.valid(); }

  // Takes output as it was read, at wall time `now_ns`.
  void Append(Stream stream, const char* text, size_t size, int64_t now_ns);
  // The stream has ended: writes what is held, as a full line.
  void End(Stream stream, int64_t now_ns);

  // Opens the path again, after somebody else has moved the file away.
  sys::Result<void> Reopen();

  // Records are being dropped; Retry() is due every second or so until it is over.
  bool is_dropping() const { return dropped_records_ > 0; }
  void Retry(int64_t now_ns);

 private:
  struct Line {
    std::string held;         // the beginning of a line, without its end
    bool is_partial = false;  // a `P` record of this line has been written
  };

  Line& LineOf(Stream stream) { return stream == Stream::kStdout ? stdout_ : stderr_; }
  void SetPrefix(Stream stream, int64_t now_ns);
  void TakeSegment(Line* line, const char* text, size_t size, bool is_end);
  void PutRecord(bool is_partial, const char* first, size_t first_size, const char* second, size_t second_size);
  void PutNote();
  void Flush();
  void Drop(size_t written, int error);
  void RotateIfDue(size_t next_size);
  void Rotate();
  sys::Result<sys::UniqueFd> OpenFile(uint64_t* size_bytes) const;

  LogSettings settings_;
  sys::UniqueFd file_;
  uint64_t file_bytes_ = 0;
  int64_t rotate_after_ns_ = 0;  // a failed rotation is not tried again before
  char* buffer_ = nullptr;
  size_t buffered_ = 0;
  bool ends_line_ = true;  // the last record put is not a `P`
  Line stdout_, stderr_;
  char prefix_[48];
  size_t prefix_size_ = 0;
  int64_t now_ns_ = 0;
  uint64_t dropped_records_ = 0;
  uint64_t dropped_bytes_ = 0;
  int drop_error_ = 0;
  int64_t retry_at_ns_ = 0;
  bool is_torn_ = false;  // the file ends inside a record that could not be cut off
};

}  // namespace monitor
