// A netlink socket of the calling thread's network namespace.
#pragma once

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace addon {

// protocol: NETLINK_ROUTE, NETLINK_NETFILTER. Errors carry the kernel's explanation
// (NETLINK_EXT_ACK, Linux 4.12) and not the request (NETLINK_CAP_ACK); dumps are filtered
// strictly (NETLINK_GET_STRICT_CHK, Linux 4.20).
sys::Result<sys::UniqueFd> OpenNetlink(int protocol);

}  // namespace addon
