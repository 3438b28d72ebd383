#include "layer/digest.h"

// The low-level calls: EVP would start OpenSSL's providers and configuration, which is half
// of this program's size and reads files, for the same code underneath.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <new>

namespace layer {

static_assert(sizeof(SHA256_CTX) <= 128);

Sha256::Sha256() { SHA256_Init(new (state_) SHA256_CTX); }

void Sha256::Update(const uint8_t* bytes, size_t size) {
  SHA256_Update(reinterpret_cast<SHA256_CTX*>(state_), bytes, size);
}

std::string Sha256::Finish() {
  static constexpr char kHex[] = "0123456789abcdef";
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256_Final(hash, reinterpret_cast<SHA256_CTX*>(state_));
  std::string text = "sha256:";
  for (unsigned char byte : hash) {
    text += kHex[byte >> 4];
    text += kHex[byte & 15];
  }
  return text;
}

}  // namespace layer
