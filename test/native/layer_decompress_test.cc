// Decompressors fed in every size of piece: what they give, and what they refuse.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include <string>

#include "layer/decompress.h"

namespace {

std::string Gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

struct Outcome {
  std::string text;
  bool at_end = false;
  layer::Problem problem;
};

// Gives the stream in pieces of `piece` bytes and takes at most `room` at a time.
Outcome Inflate(const std::string& packed, size_t piece, size_t room) {
  Outcome outcome;
  const auto* bytes = reinterpret_cast<const uint8_t*>(packed.data());
  auto inflate = layer::DecompressorFor(bytes, packed.size());
  std::string out(room, '\0');
  for (size_t at = 0; at <= packed.size(); at += piece) {
    const uint8_t* in = bytes + at;
    size_t left = std::min(piece, packed.size() - at);
    for (;;) {
      size_t produced = 0;
      const size_t before = left;
      if (!inflate->Step(&in, &left, reinterpret_cast<uint8_t*>(out.data()), room, &produced, &outcome.problem)) return outcome;
      outcome.text.append(out, 0, produced);
      if (produced < room && left == 0) break;
      REQUIRE((produced > 0 || left < before));
    }
  }
  outcome.at_end = inflate->AtEnd();
  return outcome;
}

std::string Text(size_t size) {
  std::string text;
  uint32_t state = 1;
  while (text.size() < size) {
    state = state * 1664525 + 1013904223;
    text += state % 3 == 0 ? "layer " : std::string(1, static_cast<char>(state >> 24));
  }
  return text;
}

}  // namespace

TEST_CASE("gzip of one and of many members gives all bytes, by igzip and by zlib") {
  const std::string text = Text(70'000);
  for (const bool zlib : {false, true}) {
    if (zlib) ::setenv("MINKE_LAYER_ZLIB", "1", 1);
    else ::unsetenv("MINKE_LAYER_ZLIB");
    for (const size_t piece : {size_t{1}, size_t{7}, size_t{4096}, size_t{1} << 20}) {
      CAPTURE(zlib);
      CAPTURE(piece);
      const Outcome one = Inflate(Gzip(text), piece, 1000);
      CHECK(one.text == text);
      CHECK(one.at_end);
      const Outcome many = Inflate(Gzip(text) + Gzip("") + Gzip("x") + Gzip(text), piece, 65536);
      CHECK(many.text == text + "x" + text);
      CHECK(many.at_end);
    }
  }
  ::unsetenv("MINKE_LAYER_ZLIB");
}

TEST_CASE("gzip that is damaged or goes on is corrupt, and one that is cut is not at its end") {
  for (const bool zlib : {false, true}) {
    if (zlib) ::setenv("MINKE_LAYER_ZLIB", "1", 1);
    else ::unsetenv("MINKE_LAYER_ZLIB");
    CAPTURE(zlib);
    const std::string packed = Gzip(Text(5000));
    std::string wrong_sum = packed, wrong_size = packed, wrong_bits = packed;
    wrong_sum[packed.size() - 8] ^= 1;
    wrong_size[packed.size() - 1] ^= 1;
    for (size_t i = 100; i < 140; i++) wrong_bits[i] ^= 0x55;
    for (const std::string& bad : {wrong_sum, wrong_size, wrong_bits, packed + "tail"}) {
      const Outcome outcome = Inflate(bad, 512, 4096);
      CHECK(outcome.problem.code == layer::kCorrupt);
    }
    for (const size_t cut : {size_t{3}, size_t{11}, packed.size() / 2, packed.size() - 1}) {
      CAPTURE(cut);
      const Outcome outcome = Inflate(packed.substr(0, cut), 512, 4096);
      CHECK_FALSE(outcome.problem.set());
      CHECK_FALSE(outcome.at_end);
    }
  }
  ::unsetenv("MINKE_LAYER_ZLIB");
}

TEST_CASE("zstd frames follow one another, skippable ones among them") {
  const std::string skippable("\x50\x2a\x4d\x18\x03\x00\x00\x00" "abc", 11);
  for (const size_t piece : {size_t{1}, size_t{4096}}) {
    const Outcome outcome = Inflate(skippable + Zstd("first ") + skippable + Zstd("second"), piece, 3);
    CHECK(outcome.text == "first second");
    CHECK(outcome.at_end);
  }
  CHECK_FALSE(Inflate(Zstd(Text(5000)).substr(0, 100), 64, 4096).at_end);
  std::string bad = Zstd(Text(5000));
  for (size_t i = 20; i < 60; i++) bad[i] ^= 0x55;
  const Outcome outcome = Inflate(bad, 64, 4096);
  CHECK((outcome.problem.code == layer::kCorrupt || outcome.text != Text(5000)));
}

TEST_CASE("what has no magic is passed on as it is") {
  CHECK(Inflate("plain text", 3, 2).text == "plain text");
  CHECK(Inflate("", 3, 2).at_end);
}
