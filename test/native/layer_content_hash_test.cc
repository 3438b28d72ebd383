// XXH64 against values of the reference implementation (xxhsum -H64), whatever the pieces.
#include <doctest/doctest.h>

#include <string>

#include "layer/content_hash.h"

namespace {

uint64_t HashOf(const std::string& text, size_t piece) {
  layer::ContentHash hash;
  for (size_t at = 0; at < text.size(); at += piece) {
    hash.Update(reinterpret_cast<const uint8_t*>(text.data()) + at, std::min(piece, text.size() - at));
  }
  return hash.Finish();
}

}  // namespace

TEST_CASE("content hash of known texts is XXH64's") {
  CHECK(HashOf("", 1) == 0xef46db3751d8e999ull);
  CHECK(HashOf("a", 1) == 0xd24ec4f1a98c6e5bull);
  CHECK(HashOf("abc", 3) == 0x44bc2cf5ad770999ull);
  CHECK(HashOf("Nobody inspects the spammish repetition", 100) == 0xfbcea83c8a378bf1ull);
}

TEST_CASE("content hash does not depend on the pieces") {
  std::string text;
  for (int i = 0; i < 1000; i++) text += static_cast<char>(i * 7);
  for (const size_t piece : {1, 3, 31, 32, 33, 500}) CHECK(HashOf(text, piece) == HashOf(text, text.size()));
}
