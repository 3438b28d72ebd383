/**
 * LinuxDevice nodes that every container may use, as runc and containerd allow them: the default
 * devices of runtime-spec (config-linux.md, "Default Devices"), terminals, and making any node.
 */
import type { LinuxDeviceCgroup } from "../oci/index.js";

const character = (major: number, minor: number | undefined, access = "rwm"): LinuxDeviceCgroup => ({
  allow: true,
  type: "c",
  major,
  ...(minor !== undefined && { minor }),
  access,
});

export const DEFAULT_DEVICE_RULES: readonly LinuxDeviceCgroup[] = [
  { allow: false, access: "rwm" },
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  character(1, 3), // null
  character(1, 5), // zero
  character(1, 7), // full
  character(1, 8), // random
  character(1, 9), // urandom
  character(5, 0), // tty
  character(5, 2), // ptmx
  character(136, undefined), // pts
];
