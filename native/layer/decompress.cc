#include "layer/decompress.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>

namespace layer {
namespace {

bool Corrupt(Problem* problem, const char* message) {
  problem->code = kCorrupt;
  problem->message = message;
  return false;
}

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

class Gzip final : public Decompressor {
 public:
  Gzip() {
    memset(&state_, 0, sizeof state_);
    usable_ = inflateInit2(&state_, kGzipOnly) == Z_OK;
  }
  ~Gzip() override { inflateEnd(&state_); }

  bool Step(const uint8_t** in, size_t* in_size, uint8_t* out, size_t out_size, size_t* produced,
            Problem* problem) override {
    *produced = 0;
    if (!usable_) {
      *problem = {kSystem, "gzip: start", "brk", ENOMEM, ""};
      return false;
    }
    if (finished_ && *in_size > 0) {
      // RFC 1952 2.2: members follow one another. What is not a member is not ours to guess.
      if (**in != 0x1f) return Corrupt(problem, "gzip: bytes after the last member");
      inflateReset(&state_);
      finished_ = false;
    }
    if (finished_) return true;
    const uInt in_chunk = static_cast<uInt>(std::min<size_t>(*in_size, 1u << 30));
    state_.next_in = const_cast<uint8_t*>(*in);
    state_.avail_in = in_chunk;
    state_.next_out = out;
    state_.avail_out = static_cast<uInt>(out_size);
    const int code = inflate(&state_, Z_NO_FLUSH);
    *produced = out_size - state_.avail_out;
    *in += in_chunk - state_.avail_in;
    *in_size -= in_chunk - state_.avail_in;
    finished_ = code == Z_STREAM_END;
    // Z_BUF_ERROR: nothing to do until there is more input, no failure.
    if (code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR) return true;
    problem->code = kCorrupt;
    problem->message = std::string("gzip: ") + (state_.msg != nullptr ? state_.msg : "invalid data");
    return false;
  }
  bool AtEnd() const override { return finished_; }
  const char* name() const override { return "gzip"; }

 private:
  static constexpr int kGzipOnly = 16 + MAX_WBITS;  // zlib.h, inflateInit2: a gzip header and trailer
  z_stream state_;
  bool usable_ = false;
  bool finished_ = false;
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
  if (size >= 2 && head[0] == 0x1f && head[1] == 0x8b) return std::make_unique<Gzip>();
  if (IsZstd(head, size)) return std::make_unique<Zstd>();
  return std::make_unique<Plain>();
}

}  // namespace layer
