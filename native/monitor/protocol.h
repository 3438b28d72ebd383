// Names and limits of the protocol (PROTOCOL.md).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace monitor {

constexpr unsigned kProtocol = 1;
// The release this binary belongs to: package.json's version (held by test/native/monitor.test.ts).
constexpr char kVersion[] = "0.1.0";

constexpr size_t kMaxConnections = 128;
constexpr size_t kMaxExecs = 512;
constexpr size_t kMaxCaptureBytes = 16 * 1024 * 1024;
constexpr uint64_t kMaxDurationMs = 10ull * 365 * 86'400 * 1000;  // ten years

}  // namespace monitor
