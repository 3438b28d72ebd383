// The producing half: reads a descriptor, hashes, decompresses, hashes again, and hands
// views of the tar stream to the applier. One thread of its own, so that inflating and
// writing files overlap; a ring of fixed buffers between them bounds the memory.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "layer/byte_source.h"

namespace layer {

struct StreamFacts {
  std::string digest;   // of the bytes as read
  std::string diff_id;  // of the tar stream
  uint64_t compressed_bytes = 0;
  uint64_t bytes = 0;
  const char* compression = "none";
};

class LayerStream final : public ByteSource {
 public:
  // fd is borrowed. Start() must succeed before Next().
  LayerStream(int fd, uint64_t max_bytes);
  ~LayerStream() override;
  LayerStream(const LayerStream&) = delete;
  LayerStream& operator=(const LayerStream&) = delete;

  bool Start(Problem* problem);
  // THREADS: one consumer.
  bool Next(const uint8_t** bytes, size_t* size, Problem* problem) override;
  // Both digests; only after Next() has said the end.
  const StreamFacts& facts() const { return facts_; }

 private:
  static constexpr size_t kSlots = 8;
  static constexpr size_t kSlotBytes = 256 << 10;
  struct Slot {
    std::vector<uint8_t> bytes;
    size_t size = 0;
  };

  static void* ThreadMain(void* self);
  void Produce();
  bool ReadAll();
  bool ReadInput(size_t room);
  bool InflateInput(class Decompressor* inflate, class Sha256* sum, bool at_eof);
  Slot* FreeSlot();
  void Publish();

  const int fd_;
  const uint64_t max_bytes_;
  StreamFacts facts_;
  Problem problem_;
  std::vector<uint8_t> input_;
  size_t input_size_ = 0;

  Slot slots_[kSlots];
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t produced_ = 0;  // slots published, ever
  size_t consumed_ = 0;  // slots given back, ever
  bool holding_ = false;  // the consumer reads slots_[consumed_ % kSlots]
  bool done_ = false;
  bool stopping_ = false;
  bool running_ = false;
  pthread_t thread_{};
};

}  // namespace layer
