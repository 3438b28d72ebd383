#include "layer/decompress.h"

#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>

#include "layer/gzip.h"

namespace layer {
namespace {

class Plain final : public Decompressor {
 public:
  bool Step(const uint8_t** in, size_t* in_size, uint8_t* out, size_t out_size, size_t* produced,
            Problem*) override {
    *produced = std::min(*in_size, out_size);
    memcpy(out, *in, *produced);
    *in += *produced;
    *in_size -= *produced;
    return true;
  }
  bool AtEnd() const override { return true; }
  const char* name() const override { return "none"; }
};

class Zstd final : public Decompressor {
 public:
  Zstd() : stream_(ZSTD_createDStream()) {}
  ~Zstd() override { ZSTD_freeDStream(stream_); }

  bool Step(const uint8_t** in, size_t* in_size, uint8_t* out, size_t out_size, size_t* produced,
            Problem* problem) override {
    ZSTD_inBuffer input{*in, *in_size, 0};
    ZSTD_outBuffer output{out, out_size, 0};
    const size_t hint = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(hint)) {
      // zstd(1) --long=28 and above: the window is memory, and libzstd's own limit for it 128 MiB.
      if (ZSTD_getErrorCode(hint) == ZSTD_error_frameParameter_windowTooLarge) {
        *problem = {kLimit, "zstd: the stream needs a window of more than 128 MiB", nullptr, 0, ""};
        return false;
      }
      problem->code = kCorrupt;
      problem->message = std::string("zstd: ") + ZSTD_getErrorName(hint);
      return false;
    }
    // A call that consumes and produces nothing says nothing about the frame.
    if (input.pos > 0 || output.pos > 0) between_frames_ = hint == 0;
    *produced = output.pos;
    *in += input.pos;
    *in_size -= input.pos;
    return true;
  }
  bool AtEnd() const override { return between_frames_; }
  const char* name() const override { return "zstd"; }

 private:
  ZSTD_DStream* stream_;
  bool between_frames_ = false;
};

bool IsZstd(const uint8_t* head, size_t size) {
  if (size < 4) return false;
  static constexpr uint8_t kFrame[] = {0x28, 0xb5, 0x2f, 0xfd};
  if (memcmp(head, kFrame, 4) == 0) return true;
  // RFC 8878 3.1.2: skippable frames may come first (zstd:chunked writes them).
  return (head[0] & 0xf0) == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18;
}

}  // namespace

std::unique_ptr<Decompressor> DecompressorFor(const uint8_t* head, size_t size) {
  if (size >= 2 && head[0] == 0x1f && head[1] == 0x8b) return MakeGzip();
  if (IsZstd(head, size)) return std::make_unique<Zstd>();
  return std::make_unique<Plain>();
}

}  // namespace layer
