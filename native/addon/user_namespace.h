// A user namespace with further namespaces that belong to it, made from a threaded program.
#pragma once

#include <string>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace addon {

// The two maps in the kernel's own text, a line each: "0 100000 65536\n" (user_namespaces(7)).
// Id 0 inside is mapped by the first line.
struct IdMaps {
  std::string uids, gids;
  bool empty() const { return uids.empty(); }
};

struct UserNamespaces {
  sys::UniqueFd user, net, ipc, uts;  // -1 for what was not asked for
};

// Makes a user namespace with these maps, and those of `flags` (CLONE_NEWNET, CLONE_NEWIPC,
// CLONE_NEWUTS) inside. A child that only blocks has them until they are opened; it is gone
// before this returns, and ends with the caller where that dies.
//
// Expect ENOSPC (limit of namespaces in /proc/sys/user), EINVAL and EPERM from "uid_map" and
// "gid_map" (maps that overlap). THREADS: any.
sys::Result<UserNamespaces> MakeUserNamespaces(const IdMaps& maps, int flags);

// Acts as root of the namespace that `maps` describe while it exists: some files below /proc/sys
// can be written by nobody else. For the calling thread alone.
// THREADS: only a thread that ends afterwards.
class MappedRoot {
 public:
  explicit MappedRoot(const IdMaps& maps);
  MappedRoot(const MappedRoot&) = delete;
  MappedRoot& operator=(const MappedRoot&) = delete;
  ~MappedRoot();
};

}  // namespace addon
