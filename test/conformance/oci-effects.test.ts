/**
 * What a container sees of each field of its config. Every case runs with minke-oci and, but for what
 * Debian's crun does not know, with crun too, so that a wrong expectation is found.
 * covered-fields.json says which test is for which field.
 */
import { chownSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { defaultSeccomp } from "../../src/spec/default-seccomp.js";
import { MINKE_OCI, type SampleSpec } from "../harness/oci-bundle.js";
import { useOciBench } from "./oci-bench.js";

const { configure, run } = useOciBench();
const MAPS = [{ containerID: 0, hostID: 100_000, size: 1000 }];

interface Case {
  what: string;
  command: string;
  says: string | RegExp;
  /** Made to the config; `folder` is a place for sources. */
  change: (spec: SampleSpec, folder: string) => void;
  /** Why Debian's crun (1.8) is left out. */
  crun?: string;
}

const CASES: Case[] = [
  {
    what: "args, env and cwd are the process's, and a cwd that is missing is made",
    command: "pwd; echo $VALUE",
    says: "/new/folder\ntext of it\n",
    change: (spec) => {
      spec.process.env = [...(spec.process.env ?? []), "VALUE=text of it"];
      spec.process.cwd = "/new/folder";
      spec.root.readonly = false;
    },
  },
  {
    what: "uid, gid and additionalGids are the process's",
    command: "id -u; id -G",
    says: "1000\n1001 5 6\n",
    change: (spec) => (spec.process.user = { uid: 1000, gid: 1001, additionalGids: [5, 6] }),
  },
  {
    what: "umask is the process's",
    command: "umask",
    says: "0027\n",
    change: (spec) => (spec.process.user.umask = 0o27),
  },
  {
    what: "rlimits are soft and hard limits",
    command: "ulimit -Sn; ulimit -Hn; ulimit -Sc",
    says: "512\n600\n0\n",
    change: (spec) =>
      (spec.process.rlimits = [
        { type: "RLIMIT_NOFILE", soft: 512, hard: 600 },
        { type: "RLIMIT_CORE", soft: 0, hard: 0 },
      ]),
  },
  {
    what: "capabilities are the five sets",
    command: "grep ^Cap /proc/self/status | cut -f2",
    says: `${[0x20, 0x21, 0x21, 0x23, 0x20].map((set) => set.toString(16).padStart(16, "0")).join("\n")}\n`,
    change: (spec) =>
      (spec.process.capabilities = {
        inheritable: ["CAP_KILL"],
        permitted: ["CAP_KILL", "CAP_CHOWN"],
        effective: ["CAP_KILL", "CAP_CHOWN"],
        bounding: ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"],
        ambient: ["CAP_KILL"],
      }),
  },
  {
    what: "noNewPrivileges is set for the process",
    command: "grep NoNewPrivs /proc/self/status",
    says: "NoNewPrivs:\t1\n",
    change: (spec) => (spec.process.noNewPrivileges = true),
  },
  {
    what: "oomScoreAdj is the process's",
    command: "cat /proc/self/oom_score_adj",
    says: "567\n",
    change: (spec) => (spec.process.oomScoreAdj = 567),
  },
  {
    what: "scheduler policy and nice are the process's",
    command: "cut -d' ' -f19,41 /proc/self/stat",
    says: "7 3\n",
    change: (spec) => (spec.process.scheduler = { policy: "SCHED_BATCH", nice: 7 }),
    crun: "does not know it",
  },
  {
    what: "scheduler flag RESET_ON_FORK keeps a negative nice from children",
    command: "cut -d' ' -f19 /proc/$$/stat; cut -d' ' -f19 /proc/self/stat; true",
    says: "-5\n0\n",
    change: (spec) =>
      (spec.process.scheduler = { policy: "SCHED_OTHER", nice: -5, flags: ["SCHED_FLAG_RESET_ON_FORK"] }),
    crun: "does not know it",
  },
  {
    what: "scheduler priority is that of a real-time policy",
    command: "cut -d' ' -f40,41 /proc/self/stat",
    says: "3 2\n",
    change: (spec) => (spec.process.scheduler = { policy: "SCHED_RR", priority: 3 }),
    crun: "does not know it",
  },
  {
    what: "scheduler runtime, deadline and period are those of SCHED_DEADLINE",
    command: "exec cut -d' ' -f41 /proc/self/stat",
    says: "6\n",
    change: (spec) =>
      (spec.process.scheduler = {
        policy: "SCHED_DEADLINE",
        runtime: 10_000_000,
        deadline: 50_000_000,
        period: 100_000_000,
      }),
    crun: "does not know it",
  },
  {
    what: "ioPriority is the process's",
    command: "/bin/busybox ionice -p $$",
    says: /best-effort: prio 6\n/,
    change: (spec) => (spec.process.ioPriority = { class: "IOPRIO_CLASS_BE", priority: 6 }),
    crun: "does not know it",
  },
  {
    what: "hostname and domainname are the container's",
    command: "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname",
    says: "name-of-it\ndomain.of.it\n",
    change: (spec) => Object.assign(spec, { hostname: "name-of-it", domainname: "domain.of.it" }),
  },
  {
    what: "personality LINUX32 shows a 32-bit machine",
    command: "uname -m",
    says: process.arch === "x64" ? "i686\n" : /.*/,
    change: (spec) => (spec.linux.personality = { domain: "LINUX32" }),
  },
  {
    what: "timeOffsets are those of a new time namespace",
    command: "cat /proc/self/timens_offsets",
    says: /^monotonic\s+1000\s+0\nboottime\s+2000\s+5\n$/,
    change: (spec) => {
      spec.linux.namespaces.push({ type: "time" });
      spec.linux.timeOffsets = { monotonic: { secs: 1000 }, boottime: { secs: 2000, nanosecs: 5 } };
    },
    crun: "does not know it",
  },
  {
    what: "a read-only root takes no file",
    command: "touch /file 2>/dev/null || echo refused",
    says: "refused\n",
    change: (spec) => (spec.root.readonly = true),
  },
  {
    what: "mount options are flags of the mount and words of the file system",
    command: "grep ' /place ' /proc/self/mountinfo | cut -d' ' -f6,9-; stat -c %a /place",
    says: /^ro,nosuid,nodev,noexec,noatime.* tmpfs .*size=64k.*\n711\n$/,
    change: (spec) =>
      spec.mounts.push({
        destination: "/place",
        type: "tmpfs",
        source: "tmpfs",
        options: ["ro", "nosuid", "nodev", "noexec", "noatime", "mode=711", "size=64k"],
      }),
  },
  {
    what: "bind mounts stand in mountinfo in the order of the spec, between others",
    command: "grep -o ' /place[0-9] ' /proc/self/mountinfo",
    says: " /place1 \n /place2 \n /place3 \n /place4 \n",
    change: (spec, folder) => {
      for (const [at, options] of [["rbind"], undefined, ["bind", "rslave"], ["rbind", "rprivate"]].entries()) {
        const bind = { type: "bind", source: folder, ...(options ? { options } : {}) };
        spec.mounts.push({ destination: `/place${at + 1}`, ...(options ? bind : { type: "tmpfs", source: "tmpfs" }) });
      }
    },
  },
  {
    what: "a recursive bind of the root shows the caller's root, not the container's",
    command: "ls -d /place/usr/bin/env",
    says: "/place/usr/bin/env\n",
    change: (spec) => spec.mounts.push({ destination: "/place", source: "/", options: ["rbind", "rslave"] }),
  },
  {
    what: "a recursive private bind of the root shows the caller's root, not the container's",
    command: "ls -d /place/usr/bin/env",
    says: "/place/usr/bin/env\n",
    change: (spec) => spec.mounts.push({ destination: "/place", source: "/", options: ["rbind", "rprivate"] }),
  },
  {
    what: "tmpcopyup fills a tmpfs with what the rootfs has there",
    command: "cat /etc/text",
    says: "of the image\n",
    change: (spec) => {
      writeFileSync(join(spec.root.path, "etc/text"), "of the image\n");
      spec.mounts.push({ destination: "/etc", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup"] });
    },
  },
  {
    what: "uidMappings and gidMappings of a bind mount show its owners through them",
    command: "stat -c %u:%g /place/owned",
    says: "1005:2006\n",
    change: (spec, folder) => {
      writeFileSync(join(folder, "owned"), "");
      chownSync(join(folder, "owned"), 5, 6);
      spec.mounts.push({
        destination: "/place",
        source: folder,
        options: ["bind"],
        uidMappings: [{ containerID: 0, hostID: 1000, size: 100 }],
        gidMappings: [{ containerID: 0, hostID: 2000, size: 100 }],
      });
    },
    crun: "1.8 maps with a mount option of its own",
  },
  {
    what: "an overlay of layers alone takes mappings for all of them",
    command: "stat -c %u:%g /place/owned; cat /place/other",
    says: "1005:2006\nlower\n",
    change: (spec, folder) => {
      for (const layer of ["upper", "lower"]) mkdirSync(join(folder, layer));
      writeFileSync(join(folder, "upper/owned"), "");
      chownSync(join(folder, "upper/owned"), 5, 6);
      writeFileSync(join(folder, "lower/other"), "lower\n");
      spec.mounts.push({
        destination: "/place",
        type: "overlay",
        source: "overlay",
        options: [`lowerdir+=${folder}/upper`, `lowerdir+=${folder}/lower`],
        uidMappings: [{ containerID: 0, hostID: 1000, size: 100 }],
        gidMappings: [{ containerID: 0, hostID: 2000, size: 100 }],
      });
    },
    crun: "maps no overlay",
  },
  {
    what: "uidMappings and gidMappings of linux are those of a new user namespace",
    command: "cat /proc/self/uid_map /proc/self/gid_map",
    says: /^\s+0\s+100000\s+1000\n\s+0\s+100000\s+1000\n$/,
    change: (spec) => {
      spec.linux.namespaces.push({ type: "user" });
      Object.assign(spec.linux, { uidMappings: MAPS, gidMappings: MAPS });
    },
  },
  {
    what: "devices have their type, numbers, mode and owner",
    command: "stat -c '%F %t:%T %a %u:%g' /dev/of-it /dev/pipe",
    says: "character special file 1:3 640 7:8\nfifo 0:0 600 0:0\n",
    change: (spec) =>
      (spec.linux.devices = [
        { path: "/dev/of-it", type: "c", major: 1, minor: 3, fileMode: 0o640, uid: 7, gid: 8 },
        { path: "/dev/pipe", type: "p", fileMode: 0o600 },
      ]),
  },
  {
    what: "sysctl is written in the container's namespaces",
    command: "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmnb",
    says: "77\n12345\n",
    change: (spec) => (spec.linux.sysctl = { "net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmnb": "12345" }),
  },
  {
    what: "rootfsPropagation shared is the root mount's",
    command: "grep ' / / ' /proc/self/mountinfo | grep -c shared:; grep -c ' / .* shared:' /proc/self/mountinfo",
    says: /^\d\n1\n$/,
    change: (spec) => (spec.linux.rootfsPropagation = "shared"),
  },
  {
    what: "masked paths read empty and read-only paths take no file",
    command: "cat /etc/hidden; ls /hidden; touch /fixed/file 2>/dev/null || echo refused",
    says: "refused\n",
    change: (spec) => {
      for (const name of ["hidden", "fixed"]) mkdirSync(join(spec.root.path, name), { recursive: true });
      writeFileSync(join(spec.root.path, "hidden/file"), "");
      writeFileSync(join(spec.root.path, "etc/hidden"), "s");
      spec.root.readonly = false;
      spec.linux.maskedPaths.push("/etc/hidden", "/hidden");
      spec.linux.readonlyPaths.push("/fixed");
    },
  },
  {
    what: "a seccomp rule answers its errno for the argument that it names, and for no other",
    command: "/bin/busybox kill -0 $$ && echo sent; /bin/busybox kill -CONT $$ 2>&1 | grep -o 'not implemented'",
    says: "sent\nnot implemented\n",
    change: (spec) => {
      spec.linux.seccomp = {
        flags: ["SECCOMP_FILTER_FLAG_LOG"],
        defaultAction: "SCMP_ACT_ALLOW",
        architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        syscalls: [
          {
            names: ["kill", "no_such_call"],
            action: "SCMP_ACT_ERRNO",
            errnoRet: 38,
            args: [{ index: 1, value: 0xff, valueTwo: 18, op: "SCMP_CMP_MASKED_EQ" }],
          },
        ],
      };
    },
  },
  {
    what: "a seccomp profile's default action answers its own errno",
    command: "/bin/busybox sync 2>&1; /bin/busybox chroot / true 2>&1 | grep -o 'not implemented'",
    says: "not implemented\n",
    change: (spec) => {
      const { syscalls = [] } = defaultSeccomp([]);
      const names = [...new Set(syscalls.flatMap((rule) => rule.names))].filter((name) => name !== "chroot");
      spec.linux.seccomp = {
        defaultAction: "SCMP_ACT_ERRNO",
        defaultErrnoRet: 38,
        syscalls: [{ names, action: "SCMP_ACT_ALLOW" }],
      };
    },
  },
  {
    what: "a new namespace is another, and one that is not listed is the caller's",
    command: "for n in ipc mnt net pid uts cgroup time; do readlink /proc/self/ns/$n; done",
    says: /^(\w+:\[\d+\]\n){7}$/,
    change: () => {},
  },
];

describe.each([
  ["minke-oci", MINKE_OCI],
  ["crun", "crun"],
])("%s", (name, program) => {
  test.each(CASES.filter(({ crun }) => name !== "crun" || crun === undefined))("$what", async (one) => {
    configure(one.command, one.change);
    const { code, stdout, stderr } = await run(program);
    if (typeof one.says === "string") expect(stdout, stderr).toBe(one.says);
    else expect(stdout, stderr).toMatch(one.says);
    expect(code).toBe(0);
  });

  test.each(["ipc", "network", "uts", "pid", "mount", "cgroup"] as const)(
    "a path of another type is refused for a %s namespace",
    async (type) => {
      const other = type === "uts" ? "ipc" : "uts";
      configure("true", (spec) => {
        spec.linux.namespaces = spec.linux.namespaces.filter((entry) => entry.type !== type);
        spec.linux.namespaces.push({ type, path: `/proc/self/ns/${other}` });
      });
      const { code, stderr } = await run(program);
      expect(code, stderr).not.toBe(0);
      if (name === "minke-oci") expect(stderr).toMatch(/EINVAL \(the path is a namespace of another type\)\n$/);
    },
  );
});
