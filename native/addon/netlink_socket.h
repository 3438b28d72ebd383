// A netlink socket of the calling thread's network namespace.
#pragma once

#include <string>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace addon {

// protocol: NETLINK_ROUTE, NETLINK_NETFILTER. Errors carry the kernel's explanation
// (NETLINK_EXT_ACK, Linux 4.12) and not the request (NETLINK_CAP_ACK); dumps are filtered
// strictly (NETLINK_GET_STRICT_CHK, Linux 4.20).
sys::Result<sys::UniqueFd> OpenNetlink(int protocol);

// Sends one batch and collects its answers until `expected_ends` of them have ended
// (NLMSG_ERROR or NLMSG_DONE), or none comes any more.
//
// rtnetlink and nfnetlink work inside the sender's system call, so all acknowledgements are
// queued when sendto(2) returns; only dumps go on in later receives. A refused nfnetlink
// batch may answer fewer messages than asked: an empty queue ends it too.
sys::Result<std::string> NetlinkExchange(int fd, const std::string& request, int expected_ends);

// Whether every answer is an acknowledgement without an error.
bool IsAllDone(const std::string& replies);

}  // namespace addon
