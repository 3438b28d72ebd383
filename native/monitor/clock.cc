#include "monitor/clock.h"

#include <time.h>

namespace monitor {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

int64_t ReadClockNs(clockid_t clock) {
  timespec now;
  ::clock_gettime(clock, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

void PutDigits(char* out, int width, int64_t value) {
  for (int i = width - 1; i >= 0; --i) {
    out[i] = static_cast<char>('0' + value % 10);
    value /= 10;
  }
}

}  // namespace

int64_t MonotonicMs() { return ReadClockNs(CLOCK_MONOTONIC) / 1'000'000; }

int64_t WallNs() { return ReadClockNs(CLOCK_REALTIME); }

void FormatTimestamp(int64_t unix_ns, char* out) {
  const time_t seconds = unix_ns / kNsPerSecond;
  tm utc;
  ::gmtime_r(&seconds, &utc);
  PutDigits(out, 4, utc.tm_year + 1900);
  out[4] = '-';
  PutDigits(out + 5, 2, utc.tm_mon + 1);
  out[7] = '-';
  PutDigits(out + 8, 2, utc.tm_mday);
  out[10] = 'T';
  PutDigits(out + 11, 2, utc.tm_hour);
  out[13] = ':';
  PutDigits(out + 14, 2, utc.tm_min);
  out[16] = ':';
  PutDigits(out + 17, 2, utc.tm_sec);
  out[19] = '.';
  PutDigits(out + 20, 9, unix_ns % kNsPerSecond);
  out[29] = 'Z';
}

}  // namespace monitor
