// Network devices that are moved into the container's network namespace, over rtnetlink(7).
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

#include "runtime/describe_report.h"
#include "runtime/outside.h"
#include "sys/files.h"
#include "sys/namespaces.h"

namespace runtime {
namespace {

class Message {
 public:
  template <typename Body>
  Message(uint16_t type, uint16_t flags, const Body& body) {
    struct nlmsghdr header = {};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
    bytes_.append(reinterpret_cast<const char*>(&body), sizeof body);
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  Message& Add(uint16_t type, const void* value, size_t length) {
    struct rtattr attribute = {static_cast<uint16_t>(RTA_LENGTH(length)), type};
    bytes_.append(reinterpret_cast<const char*>(&attribute), sizeof attribute);
    bytes_.append(static_cast<const char*>(value), length);
    bytes_.resize(RTA_ALIGN(bytes_.size()));
    return *this;
  }
  Message& Add(uint16_t type, const std::string& text) { return Add(type, text.c_str(), text.size() + 1); }
  Message& AddRaw(const std::string& attributes) {
    bytes_ += attributes;
    return *this;
  }
  const std::string& Finished() {
    const uint32_t length = static_cast<uint32_t>(bytes_.size());
    memcpy(bytes_.data(), &length, sizeof length);
    return bytes_;
  }

 private:
  std::string bytes_;
};

// Calls each(header, body) for every message.
template <typename Each>
void ForMessages(const std::string& replies, Each each) {
  for (size_t at = 0; at + sizeof(struct nlmsghdr) <= replies.size();) {
    struct nlmsghdr header;
    memcpy(&header, replies.data() + at, sizeof header);
    if (header.nlmsg_len < sizeof header || at + header.nlmsg_len > replies.size()) return;
    each(header, std::string_view(replies).substr(at + NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN));
    at += NLMSG_ALIGN(header.nlmsg_len);
  }
}

class Rtnetlink {
 public:
  sys::Result<void> Open() {
    fd_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!fd_.valid()) return sys::FailedWithErrno("socket");
    return {};
  }
  // Answers the kernel's messages; its refusal is the failure.
  sys::Result<std::string> Ask(Message message) {
    const std::string& request = message.Finished();
    if (::send(fd_.get(), request.data(), request.size(), 0) < 0) return sys::FailedWithErrno("send");
    std::string replies;
    for (bool is_done = false; !is_done;) {
      char buffer[64 * 1024];
      const ssize_t got = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return sys::FailedWithErrno("recv");
      int error = 0;
      const std::string part(buffer, static_cast<size_t>(got));
      ForMessages(part, [&](const struct nlmsghdr& header, std::string_view body) {
        if (header.nlmsg_type == NLMSG_DONE) is_done = true;
        if (header.nlmsg_type != NLMSG_ERROR || body.size() < sizeof error) return;
        memcpy(&error, body.data(), sizeof error);
        is_done = true;
      });
      if (error != 0) return sys::Failure{"rtnetlink", -error};
      replies += part;
    }
    return replies;
  }

 private:
  sys::UniqueFd fd_;
};

// A socket stays in the namespace where it was made.
sys::Result<void> OpenIn(int netns, int own, Rtnetlink* netlink) {
  if (auto joined = sys::setns(netns, CLONE_NEWNET); !joined) return joined;
  auto opened = netlink->Open();
  if (auto back = sys::setns(own, CLONE_NEWNET); !back) return back;
  return opened;
}

struct Link {
  int index = 0;
  bool is_up = false;
};

sys::Result<Link> FindLink(Rtnetlink* netlink, const std::string& name) {
  const struct ifinfomsg any = {};
  auto replies = netlink->Ask(Message(RTM_GETLINK, NLM_F_ACK, any).Add(IFLA_IFNAME, name));
  if (!replies) return replies.failure();
  Link link;
  ForMessages(*replies, [&](const struct nlmsghdr& header, std::string_view body) {
    struct ifinfomsg found;
    if (header.nlmsg_type != RTM_NEWLINK || body.size() < sizeof found) return;
    memcpy(&found, body.data(), sizeof found);
    link = {found.ifi_index, (found.ifi_flags & IFF_UP) != 0};
  });
  if (link.index == 0) return sys::Failure{"rtnetlink", ENODEV};
  return link;
}

sys::Result<std::vector<int>> LinkIndexes(Rtnetlink* netlink) {
  const struct ifinfomsg any = {};
  auto replies = netlink->Ask(Message(RTM_GETLINK, NLM_F_DUMP, any));
  if (!replies) return replies.failure();
  std::vector<int> indexes;
  ForMessages(*replies, [&](const struct nlmsghdr& header, std::string_view body) {
    struct ifinfomsg found;
    if (header.nlmsg_type != RTM_NEWLINK || body.size() < sizeof found) return;
    memcpy(&found, body.data(), sizeof found);
    indexes.push_back(found.ifi_index);
  });
  return indexes;
}

// What of an address is handed on, and its flags, which are 8 bits in the header and 32 in an attribute.
std::string KeptAttributes(std::string_view attributes, uint32_t* flags) {
  std::string kept;
  while (attributes.size() >= sizeof(struct rtattr)) {
    struct rtattr attribute;
    memcpy(&attribute, attributes.data(), sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > attributes.size()) break;
    const size_t length = std::min<size_t>(RTA_ALIGN(attribute.rta_len), attributes.size());
    for (const int type : {IFA_LOCAL, IFA_ADDRESS, IFA_BROADCAST, IFA_RT_PRIORITY}) {
      if (attribute.rta_type == type) kept.append(attributes.substr(0, length));
    }
    if (attribute.rta_type == IFA_FLAGS && attribute.rta_len == RTA_LENGTH(sizeof *flags)) {
      memcpy(flags, attributes.data() + RTA_LENGTH(0), sizeof *flags);
    }
    attributes.remove_prefix(length);
  }
  return kept;
}

// The permanent addresses of global scope: those that somebody has given to the device.
sys::Result<std::vector<InterfaceAddress>> AddressesOf(Rtnetlink* netlink, int index) {
  const struct ifaddrmsg any = {};
  auto replies = netlink->Ask(Message(RTM_GETADDR, NLM_F_DUMP, any));
  if (!replies) return replies.failure();
  std::vector<InterfaceAddress> addresses;
  ForMessages(*replies, [&](const struct nlmsghdr& header, std::string_view body) {
    struct ifaddrmsg found;
    if (header.nlmsg_type != RTM_NEWADDR || body.size() < sizeof found) return;
    memcpy(&found, body.data(), sizeof found);
    if (static_cast<int>(found.ifa_index) != index || found.ifa_scope != RT_SCOPE_UNIVERSE) return;
    uint32_t flags = found.ifa_flags;
    std::string kept = KeptAttributes(body.substr(NLMSG_ALIGN(sizeof found)), &flags);
    if ((flags & IFA_F_PERMANENT) == 0) return;
    flags &= IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN | IFA_F_MANAGETEMPADDR;
    const struct rtattr attribute = {RTA_LENGTH(sizeof flags), IFA_FLAGS};
    kept.append(reinterpret_cast<const char*>(&attribute), sizeof attribute);
    kept.append(reinterpret_cast<const char*>(&flags), sizeof flags);
    addresses.push_back({found.ifa_family, found.ifa_prefixlen, std::move(kept)});
  });
  return addresses;
}

sys::Result<void> SetUp(Rtnetlink* netlink, int index) {
  struct ifinfomsg link = {};
  link.ifi_index = index;
  link.ifi_flags = IFF_UP;
  link.ifi_change = IFF_UP;
  auto done = netlink->Ask(Message(RTM_NEWLINK, NLM_F_ACK, link));
  if (!done) return done.failure();
  return {};
}

sys::Result<void> AddAddresses(Rtnetlink* netlink, const MovedDevice& device, int index) {
  for (const InterfaceAddress& address : device.addresses) {
    struct ifaddrmsg header = {};
    header.ifa_family = address.family;
    header.ifa_prefixlen = address.prefix_length;
    header.ifa_index = static_cast<uint32_t>(index);
    auto added = netlink->Ask(
        Message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, header).AddRaw(address.attributes));
    if (!added && added.failure().error != EEXIST) return added.failure();
  }
  return {};
}

// The kernel takes the device down, moves it and renames it.
sys::Result<void> Move(Rtnetlink* netlink, int index, int netns, const std::string& name) {
  struct ifinfomsg link = {};
  link.ifi_index = index;
  auto moved = netlink->Ask(Message(RTM_NEWLINK, NLM_F_ACK, link)
                                .Add(IFLA_NET_NS_FD, &netns, sizeof netns)
                                .Add(IFLA_IFNAME, name));
  if (!moved) return moved.failure();
  return {};
}

// Its index in the namespace, which is another one where the old was taken; the kernel has chosen
// the name where it has a "%d".
sys::Result<int> IndexAfterMove(Rtnetlink* netlink, const std::string& name, const std::vector<int>& before) {
  if (name.find('%') == std::string::npos) {
    auto link = FindLink(netlink, name);
    if (!link) return link.failure();
    return link->index;
  }
  auto after = LinkIndexes(netlink);
  if (!after) return after.failure();
  for (const int index : *after) {
    if (std::find(before.begin(), before.end(), index) == before.end()) return index;
  }
  return sys::Failure{"rtnetlink", ENODEV};
}

bool FailDevice(const std::string& host_name, const char* doing, const sys::Failure& failure, Problem* problem) {
  const std::string path = "linux.netDevices." + host_name;
  *problem = DescribeFailure(Step::kNetDevice, path + ": " + doing, failure);
  problem->json_path = path;
  return false;
}

bool MoveOne(const NetDeviceSpec& spec, Rtnetlink* host, Rtnetlink* inside, Outside* outside, Problem* problem) {
  const std::string name = spec.name[0] != '\0' ? spec.name : spec.host_name;
  auto link = FindLink(host, spec.host_name);
  if (!link) return FailDevice(spec.host_name, "find the device", link.failure(), problem);
  if (name.find('%') == std::string::npos && FindLink(inside, name)) {
    return FailDevice(spec.host_name, "the container's network namespace has a device of that name",
                      {"rtnetlink", EEXIST}, problem);
  }
  MovedDevice device;
  device.host_name = spec.host_name;
  device.name = name;
  device.was_up = link->is_up;
  auto addresses = AddressesOf(host, link->index);
  if (!addresses) return FailDevice(spec.host_name, "read its addresses", addresses.failure(), problem);
  device.addresses = std::move(*addresses);
  auto before = LinkIndexes(inside);
  if (!before) return FailDevice(spec.host_name, "list devices", before.failure(), problem);
  if (auto moved = Move(host, link->index, outside->netns.get(), name); !moved) {
    return FailDevice(spec.host_name, "move the device", moved.failure(), problem);
  }
  auto index = IndexAfterMove(inside, name, *before);
  if (!index) return FailDevice(spec.host_name, "find the moved device", index.failure(), problem);
  device.index = *index;
  outside->devices.push_back(std::move(device));
  const MovedDevice& moved = outside->devices.back();
  if (auto up = SetUp(inside, moved.index); !up) return FailDevice(spec.host_name, "set it up", up.failure(), problem);
  auto added = AddAddresses(inside, moved, moved.index);
  return added || FailDevice(spec.host_name, "add its addresses", added.failure(), problem);
}

}  // namespace

bool MoveNetDevices(const std::vector<NetDeviceSpec>& devices, pid_t pid, Outside* outside, Problem* problem) {
  if (devices.empty()) return true;
  Rtnetlink host, inside;
  auto own = sys::open_at(AT_FDCWD, "/proc/self/ns/net", O_RDONLY);
  if (!own) return FailDevice(devices[0].host_name, "open network namespace", own.failure(), problem);
  outside->host_netns = std::move(*own);
  auto theirs = sys::open_at(AT_FDCWD, ("/proc/" + std::to_string(pid) + "/ns/net").c_str(), O_RDONLY);
  if (!theirs) return FailDevice(devices[0].host_name, "open network namespace", theirs.failure(), problem);
  outside->netns = std::move(*theirs);
  struct stat a, b;
  if (::fstat(outside->host_netns.get(), &a) == 0 && ::fstat(outside->netns.get(), &b) == 0 && a.st_ino == b.st_ino) {
    *problem = DescribeSpecError({"linux.netDevices", "is set, but the network namespace is the caller's own"});
    return false;
  }
  auto opened = host.Open();
  if (opened) opened = OpenIn(outside->netns.get(), outside->host_netns.get(), &inside);
  if (!opened) return FailDevice(devices[0].host_name, "open netlink socket", opened.failure(), problem);
  for (const NetDeviceSpec& device : devices) {
    if (MoveOne(device, &host, &inside, outside, problem)) continue;
    ReturnNetDevices(outside);
    return false;
  }
  return true;
}

void ReturnNetDevices(Outside* outside) {
  Rtnetlink host, inside;
  if (outside->devices.empty() || !host.Open() ||
      !OpenIn(outside->netns.get(), outside->host_netns.get(), &inside)) {
    return;
  }
  for (size_t i = outside->devices.size(); i-- > 0;) {
    const MovedDevice& device = outside->devices[i];
    if (!Move(&inside, device.index, outside->host_netns.get(), device.host_name)) continue;
    auto link = FindLink(&host, device.host_name);
    if (!link) continue;
    if (device.was_up) (void)SetUp(&host, link->index).ok();
    (void)AddAddresses(&host, device, link->index).ok();
  }
  outside->devices.clear();
}

}  // namespace runtime
