// The two clocks of the monitor: monotonic for deadlines, wall time for logs and exit files.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace monitor {

int64_t MonotonicMs();

// Unix time in nanoseconds.
int64_t WallNs();

constexpr size_t kTimestampLength = sizeof("2026-11-22T10:00:00.000000000Z") - 1;

// Writes `unix_ns` as RFC 3339 with nine digits and `Z`: kTimestampLength bytes, not terminated.
void FormatTimestamp(int64_t unix_ns, char* out);

}  // namespace monitor
