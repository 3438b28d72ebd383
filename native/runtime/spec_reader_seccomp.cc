// The spec's linux.seccomp object.
#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>

#include "runtime/spec_names.h"
#include "runtime/spec_reader.h"

namespace runtime {
namespace {

constexpr NamedValue kActions[] = {
    {"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD},
    {"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD},
    {"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS},
    {"SCMP_ACT_TRAP", SCMP_ACT_TRAP},
    {"SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0)},
    {"SCMP_ACT_TRACE", SCMP_ACT_TRACE(0)},
    {"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW},
    {"SCMP_ACT_LOG", SCMP_ACT_LOG},
    {"SCMP_ACT_NOTIFY", SCMP_ACT_NOTIFY},
};
constexpr NamedValue kOperators[] = {
    {"SCMP_CMP_NE", SCMP_CMP_NE}, {"SCMP_CMP_LT", SCMP_CMP_LT}, {"SCMP_CMP_LE", SCMP_CMP_LE},
    {"SCMP_CMP_EQ", SCMP_CMP_EQ}, {"SCMP_CMP_GE", SCMP_CMP_GE}, {"SCMP_CMP_GT", SCMP_CMP_GT},
    {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
};
constexpr NamedValue kArchitectures[] = {
    {"SCMP_ARCH_X86", SCMP_ARCH_X86},
    {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
    {"SCMP_ARCH_X32", SCMP_ARCH_X32},
    {"SCMP_ARCH_ARM", SCMP_ARCH_ARM},
    {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64},
    {"SCMP_ARCH_MIPS", SCMP_ARCH_MIPS},
    {"SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64},
    {"SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32},
    {"SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL},
    {"SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64},
    {"SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32},
    {"SCMP_ARCH_PPC", SCMP_ARCH_PPC},
    {"SCMP_ARCH_PPC64", SCMP_ARCH_PPC64},
    {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE},
    {"SCMP_ARCH_S390", SCMP_ARCH_S390},
    {"SCMP_ARCH_S390X", SCMP_ARCH_S390X},
    {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64},
    {"SCMP_ARCH_PARISC", SCMP_ARCH_PARISC},
    {"SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64},
};
constexpr NamedValue kFlags[] = {
    {"SECCOMP_FILTER_FLAG_TSYNC", 0},  // one thread here: nothing to synchronise
    {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
    {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
    {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1u << 5},
};

// The action with its errno: EPERM where the spec names none (config-linux.md, "errnoRet").
uint32_t ReadAction(const JsonNode& action, const JsonNode& error) {
  const NamedValue* found = FindNamed(kActions, action.RequiredString());
  if (found == nullptr) {
    action.Refuse("is not a seccomp action");
    return 0;
  }
  auto value = static_cast<uint32_t>(found->value);
  const bool takes_errno = value == SCMP_ACT_ERRNO(0) || value == SCMP_ACT_TRACE(0);
  if (error.Has() && !takes_errno) error.Refuse("is set for an action that has no errno");
  if (takes_errno) value |= static_cast<uint32_t>(error.Unsigned(0xFFFF, EPERM));
  return value;
}

void ReadRule(const JsonNode& node, SeccompSpec* seccomp) {
  SeccompRule rule;
  const JsonNode names = node["names"];
  rule.names = names.Strings();
  if (rule.names.empty()) names.Refuse("is missing or empty");
  rule.action = ReadAction(node["action"], node["errnoRet"]);
  const JsonNode args = node["args"];
  if (args.Has()) {
    args.ForEach([&](const JsonNode& entry) {
      const JsonNode op = entry["op"];
      const NamedValue* found = FindNamed(kOperators, op.RequiredString());
      if (found == nullptr) return op.Refuse("is not a comparison");
      rule.args.push_back({static_cast<uint32_t>(entry["index"].Unsigned(5)),
                           entry["value"].Unsigned(UINT64_MAX),
                           entry["valueTwo"].Unsigned(UINT64_MAX),
                           static_cast<int>(found->value)});
    });
  }
  seccomp->rules.push_back(std::move(rule));
}

}  // namespace

void ReadSeccomp(const JsonNode& node, SeccompSpec* seccomp) {
  if (!node.Has()) return;
  seccomp->present = true;
  seccomp->default_action = ReadAction(node["defaultAction"], node["defaultErrnoRet"]);
  const JsonNode architectures = node["architectures"];
  if (architectures.Has()) {
    architectures.ForEach([&](const JsonNode& entry) {
      const NamedValue* found = FindNamed(kArchitectures, entry.String());
      if (found == nullptr) return entry.Refuse("is not an architecture");
      seccomp->architectures.push_back(static_cast<uint32_t>(found->value));
    });
  }
  const JsonNode flags = node["flags"];
  if (flags.Has()) {
    flags.ForEach([&](const JsonNode& entry) {
      const NamedValue* found = FindNamed(kFlags, entry.String());
      if (found == nullptr) return entry.Refuse("is not a seccomp flag");
      seccomp->flags |= static_cast<uint32_t>(found->value);
    });
  }
  seccomp->listener_path = node["listenerPath"].String();
  seccomp->listener_metadata = node["listenerMetadata"].String();
  const JsonNode rules = node["syscalls"];
  if (rules.Has()) rules.ForEach([&](const JsonNode& rule) { ReadRule(rule, seccomp); });
  bool notifies = false;
  for (const SeccompRule& rule : seccomp->rules) notifies |= rule.action == SCMP_ACT_NOTIFY;
  if (notifies && seccomp->listener_path[0] == '\0') {
    node["listenerPath"].Refuse("is missing, and a rule says SCMP_ACT_NOTIFY");
  }
}

}  // namespace runtime
