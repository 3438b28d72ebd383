import { expect, test } from "vitest";
import { parseMountInfo } from "../../../src/native/mounts.js";

const TEXT = `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /a\\040b\\134c rw - tmpfs tmpfs rw
nonsense
`;

test("parseMountInfo reads optional fields of any number and escaped paths, and leaves unknown lines out", () => {
  expect(parseMountInfo(TEXT)).toEqual([
    {
      mountId: 36,
      parentId: 35,
      root: "/mnt1",
      mountPoint: "/mnt2",
      options: ["rw", "noatime"],
      propagation: ["master:1", "shared:2"],
      fsType: "ext3",
      source: "/dev/root",
      superOptions: ["rw", "errors=continue"],
    },
    expect.objectContaining({ mountPoint: "/sys/fs/cgroup/unified", fsType: "cgroup2", propagation: [] }),
    expect.objectContaining({ mountPoint: "/a b\\c" }),
  ]);
});
