#include "layer/gzip.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <algorithm>

#if __has_include(<isa-l/igzip_lib.h>)
#include <isa-l/igzip_lib.h>
#define MINKE_HAS_IGZIP 1
#endif

namespace layer {
namespace {

bool Corrupt(Problem* problem, std::string message) {
  problem->code = kCorrupt;
  problem->message = std::move(message);
  return false;
}

class Zlib final : public Decompressor {
 public:
  Zlib() {
    memset(&state_, 0, sizeof state_);
    usable_ = inflateInit2(&state_, kGzipOnly) == Z_OK;
  }
  ~Zlib() override { inflateEnd(&state_); }

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

#ifdef MINKE_HAS_IGZIP

// The functions of libisal.so.2; the number is that of the interface in the header.
struct Isal {
  decltype(&isal_inflate_init) init = nullptr;
  decltype(&isal_inflate_reset) reset = nullptr;
  decltype(&isal_inflate) inflate = nullptr;

  bool usable() const { return init != nullptr && reset != nullptr && inflate != nullptr; }
};

Isal LoadIsal() {
  Isal isal;
  // Never closed: it is needed until the program ends.
  void* library = ::dlopen("libisal.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return isal;
  isal.init = reinterpret_cast<decltype(isal.init)>(::dlsym(library, "isal_inflate_init"));
  isal.reset = reinterpret_cast<decltype(isal.reset)>(::dlsym(library, "isal_inflate_reset"));
  isal.inflate = reinterpret_cast<decltype(isal.inflate)>(::dlsym(library, "isal_inflate"));
  return isal;
}

class Igzip final : public Decompressor {
 public:
  explicit Igzip(const Isal& isal) : isal_(isal), state_(std::make_unique<inflate_state>()) {
    isal_.init(state_.get());
    state_->crc_flag = ISAL_GZIP;
  }

  bool Step(const uint8_t** in, size_t* in_size, uint8_t* out, size_t out_size, size_t* produced,
            Problem* problem) override {
    *produced = 0;
    if (finished_ && *in_size > 0) {
      // As in Zlib: members follow one another, and nothing else does.
      if (**in != 0x1f) return Corrupt(problem, "gzip: bytes after the last member");
      isal_.reset(state_.get());
      state_->crc_flag = ISAL_GZIP;
      finished_ = false;
    }
    if (finished_) return true;
    const uint32_t in_chunk = static_cast<uint32_t>(std::min<size_t>(*in_size, 1u << 30));
    state_->next_in = const_cast<uint8_t*>(*in);
    state_->avail_in = in_chunk;
    state_->next_out = out;
    state_->avail_out = static_cast<uint32_t>(out_size);
    const int code = isal_.inflate(state_.get());
    *produced = out_size - state_->avail_out;
    *in += in_chunk - state_->avail_in;
    *in_size -= in_chunk - state_->avail_in;
    if (code < 0) {
      return Corrupt(problem, code == ISAL_INCORRECT_CHECKSUM ? "gzip: incorrect data check" : "gzip: invalid data");
    }
    finished_ = state_->block_state == ISAL_BLOCK_FINISH;
    return true;
  }
  bool AtEnd() const override { return finished_; }
  const char* name() const override { return "gzip"; }

 private:
  const Isal isal_;
  std::unique_ptr<inflate_state> state_;  // 100 KB, too much for a stack
  bool finished_ = false;
};

#endif

}  // namespace

std::unique_ptr<Decompressor> MakeGzip() {
#ifdef MINKE_HAS_IGZIP
  static const Isal isal = LoadIsal();
  if (isal.usable() && ::getenv("MINKE_LAYER_ZLIB") == nullptr) return std::make_unique<Igzip>(isal);
#endif
  return std::make_unique<Zlib>();
}

}  // namespace layer
