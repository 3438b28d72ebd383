/** The default profile as the kernel's filter reads it: what each rule says of a call, by capability and argument. */
import { describe, expect, test } from "vitest";
import { defaultSeccomp } from "../../../src/spec/default-seccomp.js";

/** What the profile does with a call whose first argument is `argument`: the action, and the errno where there is one. */
function verdict(name: string, argument: bigint, capabilities: readonly string[] = []): string {
  const { syscalls = [], defaultAction, defaultErrnoRet } = defaultSeccomp(capabilities);
  const matching = syscalls.filter(
    (rule) =>
      rule.names.includes(name) &&
      (rule.args ?? []).every(({ value, valueTwo, op }) => {
        if (op === "SCMP_CMP_EQ") return argument === BigInt(value);
        if (op === "SCMP_CMP_LT") return argument < BigInt(value);
        if (op === "SCMP_CMP_MASKED_EQ") return (argument & BigInt(value)) === BigInt(valueTwo ?? 0);
        throw new Error(`no test of ${op}`);
      }),
  );
  const [rule] = matching;
  if (matching.some((other) => other.action !== rule?.action)) throw new Error(`${name} has rules that differ`);
  return rule ? `${rule.action} ${rule.errnoRet ?? ""}`.trim() : `${defaultAction} ${defaultErrnoRet}`;
}

const ALLOWED = "SCMP_ACT_ALLOW";
const EPERM = "SCMP_ACT_ERRNO 1";
const ENOSYS = "SCMP_ACT_ERRNO 38";

describe("without capabilities", () => {
  test.each(["keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "userfaultfd", "mount", "bpf"])(
    "%s is refused",
    (name) => expect(verdict(name, 0n)).toBe(EPERM),
  );

  test.each([
    ["AF_UNIX", 1n, ALLOWED],
    ["AF_INET6", 10n, ALLOWED],
    ["AF_NETLINK", 16n, ALLOWED],
    ["AF_ALG", 38n, EPERM],
    ["AF_NFC", 39n, ALLOWED],
    ["AF_VSOCK", 40n, EPERM],
    ["AF_XDP", 44n, ALLOWED],
    ["one that nobody knows yet", 46n, EPERM],
  ])("a socket of %s", (_, family, said) => expect(verdict("socket", family)).toBe(said));

  test.each([
    ["a thread", 0x3d0f00n, ALLOWED],
    ["a user namespace", 0x10000000n, EPERM],
    ["a mount namespace", 0x20000n, EPERM],
    ["a cgroup namespace", 0x2000000n, EPERM],
  ])("clone of %s", (_, flags, said) => expect(verdict("clone", flags)).toBe(said));

  test("clone3 is not there, so that libc falls back to clone", () => expect(verdict("clone3", 0n)).toBe(ENOSYS));

  test.each([
    ["Linux", 0x0n, ALLOWED],
    ["to be read", 0xffffffffn, ALLOWED],
    ["ADDR_NO_RANDOMIZE", 0x40000n, EPERM],
    ["READ_IMPLIES_EXEC", 0x400000n, EPERM],
  ])("the personality %s", (_, persona, said) => expect(verdict("personality", persona)).toBe(said));
});

test.each([
  ["CAP_SYS_ADMIN", ["mount", "setns", "unshare", "clone3", "bpf", "lsm_set_self_attr", "syslog"]],
  ["CAP_SYS_MODULE", ["init_module"]],
  ["CAP_SYS_TIME", ["clock_settime"]],
  ["CAP_SYSLOG", ["syslog"]],
  ["CAP_SYS_NICE", ["mbind"]],
  ["CAP_SYS_BOOT", ["reboot"]],
  ["CAP_DAC_READ_SEARCH", ["open_by_handle_at"]],
] as const)("%s opens up what it is the permission for, and nothing else does", (capability, names) => {
  for (const name of names) {
    expect(verdict(name, 0n, [capability])).toBe(ALLOWED);
    expect(verdict(name, 0n, ["CAP_NET_RAW"])).not.toBe(ALLOWED);
  }
});

test("clone of a namespace needs CAP_SYS_ADMIN alone", () => {
  expect(verdict("clone", 0x10000000n, ["CAP_SYS_ADMIN"])).toBe(ALLOWED);
});
