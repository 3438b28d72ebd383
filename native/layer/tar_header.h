// The 512-byte block of a tar archive: its checksum, numbers and fixed fields.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <optional>
#include <string>

namespace layer {

inline constexpr size_t kBlockBytes = 512;

// Octal digits, or GNU's base-256 where the top bit of the first byte is set (negative where the
// next is set too). Empty fields are 0. nullopt: neither, or beyond 64 bits.
std::optional<int64_t> ParseNumber(const uint8_t* field, size_t size);

// Bytes up to the first NUL.
std::string ParseText(const uint8_t* field, size_t size);

// True where the sum matches, of unsigned bytes as POSIX says or of signed ones as old tars wrote.
bool ChecksumHolds(const uint8_t* block);

bool IsZeroBlock(const uint8_t* block);

// Name of the block: the ustar prefix is used only where the magic is POSIX's, since GNU
// headers keep other things there.
std::string HeaderName(const uint8_t* block);

}  // namespace layer
