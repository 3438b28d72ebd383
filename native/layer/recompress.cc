#include "layer/recompress.h"

#include <errno.h>
#include <unistd.h>
#include <zstd.h>

#include <string>

#include "layer/answer.h"
#include "layer/layer_stream.h"
#include "sys/files.h"

namespace layer {
namespace {

int Fail(const char* message, const char* syscall, int error) {
  return PrintProblem({kSystem, message, syscall, error, ""}, STDERR_FILENO);
}

}  // namespace

int CompressStream() {
  ZSTD_CStream* zstd = ZSTD_createCStream();
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, 3);
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
  std::string input(256 << 10, '\0'), output(ZSTD_CStreamOutSize(), '\0');
  int code = 0;
  for (bool ended = false; !ended && code == 0;) {
    const ssize_t got = ::read(STDIN_FILENO, input.data(), input.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      code = Fail("read what is to be packed", "read", errno);
      break;
    }
    ended = got == 0;
    ZSTD_inBuffer in{input.data(), static_cast<size_t>(got), 0};
    for (bool done = false; !done;) {
      ZSTD_outBuffer out{output.data(), output.size(), 0};
      const size_t left = ZSTD_compressStream2(zstd, &out, &in, ended ? ZSTD_e_end : ZSTD_e_continue);
      const auto written = sys::WriteAll(STDOUT_FILENO, {output.data(), out.pos});
      if (ZSTD_isError(left)) code = Fail(ZSTD_getErrorName(left), "zstd", EINVAL);
      else if (!written) code = Fail("hand on what is packed", "write", written.failure().error);
      done = code != 0 || (ended ? left == 0 : in.pos == in.size);
    }
  }
  ZSTD_freeCStream(zstd);
  return code;
}

int DecompressStream(uint64_t max_bytes) {
  LayerStream stream(STDIN_FILENO, max_bytes);
  Problem problem;
  if (!stream.Start(&problem)) return PrintProblem(problem, STDERR_FILENO);
  for (;;) {
    const uint8_t* bytes = nullptr;
    size_t size = 0;
    if (!stream.Next(&bytes, &size, &problem)) return PrintProblem(problem, STDERR_FILENO);
    if (size == 0) return 0;
    if (const auto written = sys::WriteAll(STDOUT_FILENO, {reinterpret_cast<const char*>(bytes), size}); !written) {
      return Fail("hand on what is unpacked", "write", written.failure().error);
    }
  }
}

}  // namespace layer
