#include "layer/layer_stream.h"

#include <errno.h>
#include <unistd.h>

#include "layer/decompress.h"
#include "layer/digest.h"

namespace layer {

LayerStream::LayerStream(int fd, uint64_t max_bytes) : fd_(fd), max_bytes_(max_bytes) {
  input_.resize(kSlotBytes);
  for (Slot& slot : slots_) slot.bytes.resize(kSlotBytes);
}

LayerStream::~LayerStream() {
  if (!running_) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  pthread_join(thread_, nullptr);
}

bool LayerStream::Start(Problem* problem) {
  const int error = pthread_create(&thread_, nullptr, &LayerStream::ThreadMain, this);
  if (error != 0) {
    *problem = {kSystem, "start the reading thread", "clone3", error, ""};
    return false;
  }
  running_ = true;
  return true;
}

bool LayerStream::Next(const uint8_t** bytes, size_t* size, Problem* problem) {
  std::unique_lock lock(mutex_);
  if (holding_) {
    holding_ = false;
    consumed_++;
    changed_.notify_all();
  }
  changed_.wait(lock, [this] { return produced_ > consumed_ || done_; });
  if (produced_ > consumed_) {
    const Slot& slot = slots_[consumed_ % kSlots];
    holding_ = true;
    *bytes = slot.bytes.data();
    *size = slot.size;
    return true;
  }
  *size = 0;
  if (!problem_.set()) return true;
  *problem = problem_;
  return false;
}

void* LayerStream::ThreadMain(void* self) {
  static_cast<LayerStream*>(self)->Produce();
  return nullptr;
}

void LayerStream::Produce() {
  ReadAll();
  std::lock_guard lock(mutex_);
  done_ = true;
  changed_.notify_all();
}

// Fills input_ up to `room` bytes in total; a short input is the end of the stream.
bool LayerStream::ReadInput(size_t room) {
  while (input_size_ < room) {
    const ssize_t got = ::read(fd_, input_.data() + input_size_, input_.size() - input_size_);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      problem_ = {kSystem, "read the layer", "read", errno, ""};
      return false;
    }
    if (got == 0) break;
    input_size_ += static_cast<size_t>(got);
  }
  return true;
}

bool LayerStream::ReadAll() {
  Sha256 digest, diff_id;
  if (!ReadInput(4)) return false;
  auto inflate = DecompressorFor(input_.data(), input_size_);
  facts_.compression = inflate->name();
  while (input_size_ > 0) {
    digest.Update(input_.data(), input_size_);
    facts_.compressed_bytes += input_size_;
    if (!InflateInput(inflate.get(), &diff_id, false)) return false;
    input_size_ = 0;
    if (!ReadInput(1)) return false;
  }
  if (!InflateInput(inflate.get(), &diff_id, true)) return false;
  if (facts_.compressed_bytes > 0 && !inflate->AtEnd()) {
    problem_ = {kTruncated, std::string(inflate->name()) + ": the stream ended inside of it", nullptr, 0, ""};
    return false;
  }
  facts_.digest = digest.Finish();
  facts_.diff_id = diff_id.Finish();
  return true;
}

// Consumes all input. At the end of the input once more with none, for what the decoder holds back.
bool LayerStream::InflateInput(Decompressor* inflate, Sha256* sum, bool at_eof) {
  const uint8_t* in = input_.data();
  size_t left = at_eof ? 0 : input_size_;
  for (;;) {
    Slot* slot = FreeSlot();
    if (slot == nullptr) return false;
    const size_t before = left;
    size_t produced = 0;
    if (!inflate->Step(&in, &left, slot->bytes.data(), slot->bytes.size(), &produced, &problem_)) return false;
    sum->Update(slot->bytes.data(), produced);
    facts_.bytes += produced;
    if (facts_.bytes > max_bytes_) {
      problem_ = {kLimit, "the layer is larger than " + std::to_string(max_bytes_) + " bytes", nullptr, 0, ""};
      return false;
    }
    slot->size = produced;
    if (produced > 0) Publish();
    if (produced == slot->bytes.size()) continue;
    if (left == 0) return true;
    if (produced == 0 && left == before) {
      problem_ = {kCorrupt, std::string(inflate->name()) + ": no progress", nullptr, 0, ""};
      return false;
    }
  }
}

LayerStream::Slot* LayerStream::FreeSlot() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return produced_ - consumed_ < kSlots || stopping_; });
  return stopping_ ? nullptr : &slots_[produced_ % kSlots];
}

void LayerStream::Publish() {
  std::lock_guard lock(mutex_);
  produced_++;
  changed_.notify_all();
}

}  // namespace layer
