#include "layer/tar_header.h"

#include <string.h>

namespace layer {

std::optional<int64_t> ParseNumber(const uint8_t* field, size_t size) {
  if ((field[0] & 0x80) != 0) {
    const bool negative = (field[0] & 0x40) != 0;
    uint64_t value = negative ? ~0ull : 0;
    for (size_t i = 0; i < size; i++) {
      const uint8_t byte = i == 0 ? static_cast<uint8_t>(negative ? field[0] : field[0] & 0x7f) : field[i];
      // What is shifted out, and the new sign bit, must repeat the sign.
      if (static_cast<int64_t>(value) >> 55 != (negative ? -1 : 0)) return std::nullopt;
      value = value << 8 | byte;
    }
    return static_cast<int64_t>(value);
  }
  size_t at = 0;
  while (at < size && field[at] == ' ') at++;
  uint64_t value = 0;
  for (; at < size && field[at] >= '0' && field[at] <= '7'; at++) {
    if (value >> 60 != 0) return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(field[at] - '0');
  }
  for (; at < size; at++) {
    if (field[at] != ' ' && field[at] != 0) return std::nullopt;
  }
  return static_cast<int64_t>(value);
}

std::string ParseText(const uint8_t* field, size_t size) {
  return std::string(reinterpret_cast<const char*>(field), strnlen(reinterpret_cast<const char*>(field), size));
}

bool ChecksumHolds(const uint8_t* block) {
  constexpr size_t kAt = 148, kSize = 8;
  int64_t as_unsigned = 0, as_signed = 0;
  for (size_t i = 0; i < kBlockBytes; i++) {
    const uint8_t byte = i >= kAt && i < kAt + kSize ? static_cast<uint8_t>(' ') : block[i];
    as_unsigned += byte;
    as_signed += static_cast<int8_t>(byte);
  }
  const auto said = ParseNumber(block + kAt, kSize);
  return said && (*said == as_unsigned || *said == as_signed);
}

bool IsZeroBlock(const uint8_t* block) {
  return block[0] == 0 && memcmp(block, block + 1, kBlockBytes - 1) == 0;
}

std::string HeaderName(const uint8_t* block) {
  const std::string name = ParseText(block, 100);
  if (memcmp(block + 257, "ustar\0", 6) != 0) return name;
  const std::string prefix = ParseText(block + 345, 155);
  return prefix.empty() ? name : prefix + "/" + name;
}

}  // namespace layer
