// Unix sockets: a descriptor sent to who listens at a path.
#pragma once

#include <string>
#include <string_view>

#include "sys/result.h"

namespace sys {

// Connects a stream socket to `path` and sends `text`, which must not be empty, with `fd` as its
// one SCM_RIGHTS descriptor. Expect ENAMETOOLONG (unix(7): 108 bytes), ENOENT, ECONNREFUSED.
Result<void> send_fd_to_path(const std::string& path, std::string_view text, int fd);

}  // namespace sys
