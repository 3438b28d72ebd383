#include "layer/content_hash.h"

#include <string.h>

#include <algorithm>

namespace layer {
namespace {

constexpr uint64_t kPrime1 = 0x9e3779b185ebca87ull, kPrime2 = 0xc2b2ae3d27d4eb4full, kPrime3 = 0x165667b19e3779f9ull,
                   kPrime4 = 0x85ebca77c2b2ae63ull, kPrime5 = 0x27d4eb2f165667c5ull;

uint64_t Rotated(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

template <typename T>
uint64_t Load(const uint8_t* from) {
  T value;
  memcpy(&value, from, sizeof value);  // little-endian machines only, as the rest of this program
  return value;
}

uint64_t Round(uint64_t lane, uint64_t input) { return Rotated(lane + input * kPrime2, 31) * kPrime1; }

void Stripe(uint64_t* lanes, const uint8_t* at) {
  for (int i = 0; i < 4; i++) lanes[i] = Round(lanes[i], Load<uint64_t>(at + 8 * i));
}

}  // namespace

void ContentHash::Update(const uint8_t* bytes, size_t size) {
  total_ += size;
  if (rest_size_ > 0) {
    const size_t part = std::min(size, sizeof rest_ - rest_size_);
    memcpy(rest_ + rest_size_, bytes, part);
    rest_size_ += part;
    bytes += part;
    size -= part;
    if (rest_size_ < sizeof rest_) return;
    Stripe(lanes_, rest_);
    rest_size_ = 0;
  }
  for (; size >= sizeof rest_; bytes += sizeof rest_, size -= sizeof rest_) Stripe(lanes_, bytes);
  memcpy(rest_, bytes, size);
  rest_size_ = size;
}

uint64_t ContentHash::Finish() const {
  uint64_t hash = kPrime5;
  if (total_ >= sizeof rest_) {
    hash = Rotated(lanes_[0], 1) + Rotated(lanes_[1], 7) + Rotated(lanes_[2], 12) + Rotated(lanes_[3], 18);
    for (const uint64_t lane : lanes_) hash = (hash ^ Round(0, lane)) * kPrime1 + kPrime4;
  }
  hash += total_;
  size_t at = 0;
  for (; at + 8 <= rest_size_; at += 8) hash = Rotated(hash ^ Round(0, Load<uint64_t>(rest_ + at)), 27) * kPrime1 + kPrime4;
  if (at + 4 <= rest_size_) {
    hash = Rotated(hash ^ Load<uint32_t>(rest_ + at) * kPrime1, 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at < rest_size_; at++) hash = Rotated(hash ^ rest_[at] * kPrime5, 11) * kPrime1;
  hash = (hash ^ hash >> 33) * kPrime2;
  hash = (hash ^ hash >> 29) * kPrime3;
  return hash ^ hash >> 32;
}

}  // namespace layer
