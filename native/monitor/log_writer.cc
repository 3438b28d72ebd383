#include "monitor/log_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "monitor/clock.h"

namespace monitor {
namespace {

constexpr int64_t kRetryAfterNs = 500'000'000;
constexpr int64_t kRotateAgainAfterNs = 10'000'000'000;
// A line without end is cut between files only where the file is over its limit by this much.
constexpr uint64_t kLongLineSlackBytes = 256 * 1024;

}  // namespace

sys::Result<sys::UniqueFd> LogWriter::OpenFile(uint64_t* size_bytes) const {
  // O_NONBLOCK: a fifo without reader must not stop the monitor; it is refused below.
  sys::UniqueFd file(::open(settings_.path.c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640));
  if (!file.valid()) return sys::FailedWithErrno("open");
  struct stat status;
  if (::fstat(file.get(), &status) < 0) return sys::FailedWithErrno("fstat");
  if (!S_ISREG(status.st_mode)) return sys::Failure{"open", EINVAL};
  *size_bytes = static_cast<uint64_t>(status.st_size);
  return file;
}

sys::Result<void> LogWriter::Open(LogSettings settings, char* buffer) {
  settings_ = std::move(settings);
  buffer_ = buffer;
  return Reopen();
}

sys::Result<void> LogWriter::Reopen() {
  uint64_t size_bytes = 0;
  auto file = OpenFile(&size_bytes);
  if (!file) return file.failure();
  file_ = std::move(*file);
  file_bytes_ = size_bytes;
  is_torn_ = false;
  return {};
}

void LogWriter::SetPrefix(Stream stream, int64_t now_ns) {
  now_ns_ = now_ns;
  FormatTimestamp(now_ns, prefix_);
  const char* const rest = stream == Stream::kStdout ? " stdout F " : " stderr F ";
  memcpy(prefix_ + kTimestampLength, rest, 10);
  prefix_size_ = kTimestampLength + 10;
}

void LogWriter::Append(Stream stream, const char* text, size_t size, int64_t now_ns) {
  if (!file_.valid()) return;
  SetPrefix(stream, now_ns);
  Line* const line = &LineOf(stream);
  const char* const end = text + size;
  while (text < end) {
    const char* const newline = static_cast<const char*>(memchr(text, '\n', static_cast<size_t>(end - text)));
    const char* const stop = newline != nullptr ? newline : end;
    TakeSegment(line, text, static_cast<size_t>(stop - text), newline != nullptr);
    text = stop + 1;
  }
  Flush();
  // A flood grows the held part of a line only up to one record; an idle stream holds nothing.
  if (line->held.empty()) std::string().swap(line->held);
}

void LogWriter::End(Stream stream, int64_t now_ns) {
  Line* const line = &LineOf(stream);
  if (!file_.valid() || (line->held.empty() && !line->is_partial)) return;
  SetPrefix(stream, now_ns);
  TakeSegment(line, "", 0, true);
  Flush();
  std::string().swap(line->held);
}

void LogWriter::TakeSegment(Line* line, const char* text, size_t size, bool is_end) {
  while (line->held.size() + size > kMaxContentBytes) {
    const size_t taken = kMaxContentBytes - line->held.size();
    PutRecord(true, line->held.data(), line->held.size(), text, taken);
    line->is_partial = true;
    line->held.clear();
    text += taken;
    size -= taken;
  }
  if (!is_end) {
    line->held.append(text, size);
    return;
  }
  PutRecord(false, line->held.data(), line->held.size(), text, size);
  line->is_partial = false;
  line->held.clear();
}

void LogWriter::PutRecord(bool is_partial, const char* first, size_t first_size, const char* second,
                          size_t second_size) {
  const size_t size = prefix_size_ + first_size + second_size + 1;
  if (is_dropping() && now_ns_ >= retry_at_ns_) PutNote();
  if (is_dropping()) {
    ++dropped_records_;
    dropped_bytes_ += first_size + second_size;
    return;
  }
  RotateIfDue(size);
  if (buffered_ + size > kBufferBytes) Flush();
  char* out = buffer_ + buffered_;
  memcpy(out, prefix_, prefix_size_);
  out[prefix_size_ - 2] = is_partial ? 'P' : 'F';
  out += prefix_size_;
  memcpy(out, first, first_size);
  memcpy(out + first_size, second, second_size);
  out[first_size + second_size] = '\n';
  buffered_ += size;
  ends_line_ = !is_partial;
}

// Tries to say what was dropped; dropping is over if that could be written.
void LogWriter::PutNote() {
  char note[192];
  char time[kTimestampLength];
  FormatTimestamp(now_ns_, time);
  int size = snprintf(note, sizeof note, "%s%.*s stderr F minke: %llu log records with %llu bytes were lost: %s\n",
                      is_torn_ ? "\n" : "", static_cast<int>(kTimestampLength), time,
                      static_cast<unsigned long long>(dropped_records_),
                      static_cast<unsigned long long>(dropped_bytes_), strerrorname_np(drop_error_));
  const ssize_t written = ::write(file_.get(), note, static_cast<size_t>(size));
  if (written == size) {
    file_bytes_ += static_cast<uint64_t>(size);
    dropped_records_ = dropped_bytes_ = 0;
    is_torn_ = false;
    return;
  }
  struct stat status;
  if (written > 0 && (::fstat(file_.get(), &status) < 0 || ::ftruncate(file_.get(), status.st_size - written) < 0)) {
    is_torn_ = true;
  }
  retry_at_ns_ = now_ns_ + kRetryAfterNs;
}

void LogWriter::Retry(int64_t now_ns) {
  if (!is_dropping() || !file_.valid()) return;
  now_ns_ = now_ns;
  PutNote();
}

void LogWriter::Flush() {
  size_t written = 0;
  while (written < buffered_) {
    const ssize_t result = ::write(file_.get(), buffer_ + written, buffered_ - written);
    if (result < 0 && errno == EINTR) continue;
    if (result <= 0) {
      Drop(written, result < 0 ? errno : ENOSPC);
      return;
    }
    written += static_cast<size_t>(result);
  }
  file_bytes_ += buffered_;
  buffered_ = 0;
}

// `written` bytes of the buffer went to the file: takes back the beginning of a record that did
// not fit, and counts what is lost.
void LogWriter::Drop(size_t written, int error) {
  size_t whole = written;
  while (whole > 0 && buffer_[whole - 1] != '\n') --whole;
  if (whole < written) {
    struct stat status;
    const auto torn = static_cast<off_t>(written - whole);
    is_torn_ = ::fstat(file_.get(), &status) < 0 || ::ftruncate(file_.get(), status.st_size - torn) < 0;
  }
  for (size_t i = whole; i < buffered_; ++i) dropped_records_ += buffer_[i] == '\n' ? 1 : 0;
  dropped_bytes_ += buffered_ - whole;
  drop_error_ = error;
  retry_at_ns_ = now_ns_ + kRetryAfterNs;
  file_bytes_ += whole;
  buffered_ = 0;
}

void LogWriter::RotateIfDue(size_t next_size) {
  if (settings_.max_bytes == 0) return;
  const uint64_t with_next = file_bytes_ + buffered_ + next_size;
  if (with_next <= settings_.max_bytes || file_bytes_ + buffered_ == 0) return;
  if (!ends_line_ && with_next <= settings_.max_bytes + kLongLineSlackBytes) return;
  if (now_ns_ < rotate_after_ns_) return;
  Flush();
  if (!is_dropping()) Rotate();
}

// path -> path.1 -> ... -> path.<n-1>. The new file is opened before anything is given up: where
// that fails, the old one is written on and the rotation is tried again later.
void LogWriter::Rotate() {
  rotate_after_ns_ = now_ns_ + kRotateAgainAfterNs;
  const std::string& path = settings_.path;
  const unsigned kept = settings_.max_files > 1 ? settings_.max_files - 1 : 0;
  const auto name = [&path](unsigned index) { return path + "." + std::to_string(index); };
  // Not renamed over: ext4 would write the other file out at once (ext4(5), "auto_da_alloc").
  if (kept > 0) ::unlink(name(kept).c_str());
  for (unsigned index = kept; index > 1; --index) ::rename(name(index - 1).c_str(), name(index).c_str());
  // With one file there is no place for the old contents.
  if (kept == 0 ? ::unlink(path.c_str()) < 0 : ::rename(path.c_str(), name(1).c_str()) < 0) {
    if (errno != ENOENT) return;
  }
  uint64_t size_bytes = 0;
  auto file = OpenFile(&size_bytes);
  if (!file) {
    if (kept > 0) ::rename(name(1).c_str(), path.c_str());
    return;
  }
  file_ = std::move(*file);
  file_bytes_ = size_bytes;
  rotate_after_ns_ = 0;
}

}  // namespace monitor
