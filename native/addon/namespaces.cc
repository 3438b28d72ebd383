// The namespaces of a sandbox, made on a thread that exists for one call.
//
// unshare(2) changes the calling thread for good, so neither the event loop's thread nor one
// of the pool's may make it. The thread ends; the namespaces live on in the descriptors.
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "addon/async_op.h"
#include "addon/netlink_socket.h"
#include "addon/registration.h"
#include "addon/user_namespace.h"
#include "sys/files.h"
#include "sys/namespaces.h"

namespace addon {
namespace {

struct SandboxNamespaces {
  sys::UniqueFd user, net, ipc, uts, netlink;
};

struct NamespaceRequest {
  int flags = 0;  // CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
  std::string hostname, domainname;
  IdMaps maps;  // empty: the namespaces belong to the host's user namespace
  std::string sysctls;  // "net/ipv4/ip_forward\0001\000…": path below /proc/sys, value, in turns
};

// Without IPv6 in the kernel the files are missing, and there is nothing to switch off.
sys::Result<void> WriteSysctlIfThere(const char* path, std::string_view value) {
  sys::Result<void> written = sys::WriteFileAt(AT_FDCWD, path, value);
  if (!written && written.failure().error == ENOENT) return {};
  return written;
}

// Pods take no address from router advertisements, and duplicate address detection would keep
// the link-local address tentative for 1.6 s. `default` is copied when a link is born, so it
// is set before eth0 exists.
sys::Result<void> ConfigureNewNetwork() {
  for (const char* name : {"/proc/sys/net/ipv6/conf/default/accept_dad",
                           "/proc/sys/net/ipv6/conf/default/accept_ra"}) {
    sys::Result<void> written = WriteSysctlIfThere(name, "0");
    if (!written) return written;
  }
  return {};
}

// Since Linux 6.4 those of an IPC namespace can be written by its own root alone.
sys::Result<void> WriteSysctl(const char* path, std::string_view value, const IdMaps& maps) {
  sys::Result<void> written = sys::WriteFileAt(AT_FDCWD, path, value);
  if (written || maps.empty() || written.failure().error != EACCES) return written;
  const MappedRoot root(maps);
  return sys::WriteFileAt(AT_FDCWD, path, value);
}

sys::Result<void> WriteSysctls(std::string_view pairs, const IdMaps& maps) {
  while (!pairs.empty()) {
    const size_t path_end = pairs.find('\0');
    const size_t value_end = pairs.find('\0', path_end + 1);
    if (path_end == std::string_view::npos || value_end == std::string_view::npos) {
      return sys::Failure{"sysctl", EINVAL};
    }
    std::string path = "/proc/sys/";
    path += pairs.substr(0, path_end);
    const std::string_view value = pairs.substr(path_end + 1, value_end - path_end - 1);
    sys::Result<void> written = WriteSysctl(path.c_str(), value, maps);
    if (!written) return sys::Failure{"sysctl", written.failure().error};
    pairs.remove_prefix(value_end + 1);
  }
  return {};
}

// The calling thread enters new namespaces of the host's user namespace.
sys::Result<void> EnterNew(int flags, SandboxNamespaces* made) {
  sys::Result<void> step = sys::unshare(flags);
  if (!step) return step;
  struct {
    int flag;
    const char* path;
    sys::UniqueFd* into;
  } const namespaces[] = {
      {CLONE_NEWNET, "/proc/thread-self/ns/net", &made->net},
      {CLONE_NEWIPC, "/proc/thread-self/ns/ipc", &made->ipc},
      {CLONE_NEWUTS, "/proc/thread-self/ns/uts", &made->uts},
  };
  for (const auto& ns : namespaces) {
    if ((flags & ns.flag) == 0) continue;
    sys::Result<sys::UniqueFd> fd = sys::open_at(AT_FDCWD, ns.path, O_RDONLY);
    if (!fd) return fd.failure();
    *ns.into = std::move(fd).value();
  }
  return {};
}

// The same with a user namespace, which no thread can enter: setns(2). The host's root needs
// none of its rights there.
sys::Result<void> EnterMapped(const IdMaps& maps, int flags, SandboxNamespaces* made) {
  sys::Result<UserNamespaces> user = MakeUserNamespaces(maps, flags);
  if (!user) return user.failure();
  made->user = std::move(user->user);
  made->net = std::move(user->net);
  made->ipc = std::move(user->ipc);
  made->uts = std::move(user->uts);
  for (const sys::UniqueFd* fd : {&made->net, &made->ipc, &made->uts}) {
    if (!fd->valid()) continue;
    if (auto joined = sys::setns(fd->get(), 0); !joined) return joined;
  }
  return {};
}

// The order is forced: UTS sysctls act on the namespace of the thread at the time of the write,
// net sysctls on that at the time of the open, and a socket stays where it was made; so all of
// it happens here, on the thread. /proc/self would be the main thread: namespaces(7).
// THREADS: only a thread that ends afterwards.
sys::Result<SandboxNamespaces> MakeNamespaces(const NamespaceRequest& request) {
  SandboxNamespaces made;
  sys::Result<void> step = request.maps.empty() ? EnterNew(request.flags, &made)
                                                : EnterMapped(request.maps, request.flags, &made);
  if (!step) return step.failure();
  if (request.flags & CLONE_NEWUTS) {
    if (::sethostname(request.hostname.data(), request.hostname.size()) < 0) {
      return sys::FailedWithErrno("sethostname");
    }
    // "(none)" is the kernel's own default and would be copied from the host.
    if (::setdomainname(request.domainname.data(), request.domainname.size()) < 0) {
      return sys::FailedWithErrno("setdomainname");
    }
  }
  if (request.flags & CLONE_NEWNET) {
    step = ConfigureNewNetwork();
    if (!step) return step.failure();
    sys::Result<sys::UniqueFd> netlink = OpenNetlink(NETLINK_ROUTE);
    if (!netlink) return netlink.failure();
    made.netlink = std::move(netlink).value();
  }
  step = WriteSysctls(request.sysctls, request.maps);
  if (!step) return step.failure();
  return made;
}

// createSandboxNamespaces(network, ipc, uts, hostname, domainname, sysctls, uidMap, gidMap)
//   -> Promise<[net, ipc, uts, netlink, user]>, -1 for what was not asked for
Napi::Value CreateSandboxNamespaces(const Napi::CallbackInfo& info) {
  NamespaceRequest request;
  if (info[0].ToBoolean().Value()) request.flags |= CLONE_NEWNET;
  if (info[1].ToBoolean().Value()) request.flags |= CLONE_NEWIPC;
  if (info[2].ToBoolean().Value()) request.flags |= CLONE_NEWUTS;
  request.hostname = StringArgument(info, 3);
  request.domainname = StringArgument(info, 4);
  request.sysctls = StringArgument(info, 5);
  request.maps = {StringArgument(info, 6), StringArgument(info, 7)};
  return SettleOnOwnThread<SandboxNamespaces>(
      info.Env(), [request = std::move(request)] { return MakeNamespaces(request); },
      [](Napi::Env env, SandboxNamespaces& made) -> Napi::Value {
        Napi::Array fds = Napi::Array::New(env, 5);
        fds.Set(0u, Napi::Number::New(env, made.net.release()));
        fds.Set(1u, Napi::Number::New(env, made.ipc.release()));
        fds.Set(2u, Napi::Number::New(env, made.uts.release()));
        fds.Set(3u, Napi::Number::New(env, made.netlink.release()));
        fds.Set(4u, Napi::Number::New(env, made.user.release()));
        return fds;
      });
}

}  // namespace

void RegisterNamespaces(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "createSandboxNamespaces", CreateSandboxNamespaces);
}

}  // namespace addon
