#include "monitor/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

namespace monitor {
namespace {

constexpr size_t kScratchBytes = Scratch::kReadBytes + LogWriter::kBufferBytes;
constexpr size_t kBurstBytes = 4096;
constexpr int kFloodPipeBytes = 512 * 1024;

void SetNonBlocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

bool Scratch::Open() {
  void* const memory =
      ::mmap(nullptr, kScratchBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = static_cast<char*>(memory);
  // A huge page would make the first byte cost 2 MiB.
  ::madvise(memory_, kScratchBytes, MADV_NOHUGEPAGE);
  return true;
}

void Scratch::Used(size_t size) {
  if (size >= kBurstBytes) TrimSoon();
}

void Scratch::Trim() {
  ::madvise(memory_, kScratchBytes, MADV_DONTNEED);
  ::malloc_trim(0);
}

void Output::Open(sys::UniqueFd fd, bool is_paused) {
  fd_ = std::move(fd);
  SetNonBlocking(fd_.get());
  is_paused_ = is_paused;
  if (!is_paused) watch_.Start(fd_.get(), EPOLLIN);
}

void Output::Resume() {
  if (!is_paused_) return;
  is_paused_ = false;
  if (fd_.valid()) watch_.Start(fd_.get(), EPOLLIN);
}

void Output::Close() {
  if (!fd_.valid()) return;
  watch_.Stop();
  fd_.reset();
  reader_->OnOutputEnd(stream_);
}

void Output::NoteProcessEnd() {
  int queued = 0;
  if (fd_.valid() && ::ioctl(fd_.get(), FIONREAD, &queued) == 0) owed_bytes_ = queued;
}

void Output::OnReady(uint32_t /*events*/) {
  const ssize_t size = ::read(fd_.get(), scratch_->read_buffer(), Scratch::kReadBytes);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // A terminal whose last user is gone reads as EIO (tty_ioctl(4), TIOCNOTTY; pty(7)).
  if (size <= 0) {
    Close();
    return;
  }
  owed_bytes_ -= size;
  if (static_cast<size_t>(size) == Scratch::kReadBytes && !is_grown_) {
    // The writer fills the pipe faster than it is read: a larger one saves waking up for each
    // 64 KiB. A terminal refuses, and so may the kernel (pipe(7), "pipe-user-pages-soft").
    is_grown_ = true;
    ::fcntl(fd_.get(), F_SETPIPE_SZ, kFloodPipeBytes);
  }
  scratch_->Used(static_cast<size_t>(size));
  reader_->OnOutput(stream_, std::string_view(scratch_->read_buffer(), static_cast<size_t>(size)));
}

void Input::Open(sys::UniqueFd fd, bool is_terminal) {
  fd_ = std::move(fd);
  is_terminal_ = is_terminal;
  SetNonBlocking(fd_.get());
  // What came while the process was being started.
  if (IsCongested()) watch_.Start(fd_.get(), EPOLLOUT);
}

void Input::Write(std::string_view bytes) {
  if (!fd_.valid() || is_ending_) return;
  if (pending_.empty()) {
    const ssize_t written = ::write(fd_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno != EAGAIN && errno != EINTR) {
      Close();
      return;
    }
    if (written > 0) bytes.remove_prefix(static_cast<size_t>(written));
    if (bytes.empty()) return;
    if (!watch_.Start(fd_.get(), EPOLLOUT)) {
      Close();
      return;
    }
  }
  pending_.append(bytes);
}

void Input::End() {
  if (!fd_.valid() || is_terminal_) return;
  is_ending_ = true;
  if (pending_.empty()) Close();
}

void Input::Close() {
  watch_.Stop();
  fd_.reset();
  const bool was_congested = IsCongested();
  std::string().swap(pending_);
  if (was_congested) writer_->OnInputDrained();
}

void Input::OnReady(uint32_t /*events*/) {
  const ssize_t written = ::write(fd_.get(), pending_.data(), pending_.size());
  if (written < 0) {
    if (errno != EAGAIN && errno != EINTR) Close();
    return;
  }
  pending_.erase(0, static_cast<size_t>(written));
  if (!pending_.empty()) return;
  std::string().swap(pending_);
  if (is_ending_) {
    watch_.Stop();
    fd_.reset();
  } else {
    watch_.Stop();
  }
  writer_->OnInputDrained();
}

}  // namespace monitor
