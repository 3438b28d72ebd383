/** The tables `[network]` and `[network.cni]` of the settings file. */
import { isIP } from "node:net";
import { z } from "zod";
import { absolutePath } from "./fields.js";

export interface CniSettings {
  /** Where configurations are looked for; absolute. */
  readonly configDir: string;
  /** The one configuration, instead of the directory; absolute. */
  readonly configFile?: string | undefined;
  /** Searched for plugins in this order; absolute. */
  readonly pluginDirs: readonly string[];
  /** For one run of one plugin. */
  readonly timeoutMs: number;
  /** Where network namespaces are bound for plugins; absolute. `undefined`: `netns` below `--run`. */
  readonly netnsDir?: string | undefined;
}

export interface NetworkSettings {
  /** Who makes it: `auto` is CNI where it has a configuration, else built in. */
  readonly mode: "auto" | "builtin" | "cni";
  readonly cni: CniSettings;
  /** The bridge's name: 1 to 15 bytes. */
  readonly bridge: string;
  /** IPv4 subnet of the pods, CIDR; its first address is the bridge's. `none`: no IPv4. `undefined`: the first free of a list. */
  readonly subnet4?: string | undefined;
  /** The same of IPv6. */
  readonly subnet6?: string | undefined;
  /** Bytes; of the bridge and every pod's interface. `undefined`: the smallest of the host's links. */
  readonly mtu?: number | undefined;
  /** Links, as bridges of other networks, that pods neither reach nor are reached from, but for host ports. */
  readonly isolateFrom: readonly string[];
}

const linkName = z
  .string()
  .regex(/^[^\s/:%]{1,15}$/, "must be a link name of 1 to 15 characters without space, slash, colon or percent");

/** Narrower than the kernel's: the name of the nftables table has it in it. */
const bridgeName = z
  .string()
  .regex(
    /^(?!(all|default)$)[A-Za-z][A-Za-z0-9_.-]{0,14}$/,
    'must be a link name of 1 to 15 letters, digits, ".", "_" or "-" that begins with a letter, and neither "all" nor "default"',
  );

const cniSchema = z
  .strictObject({
    "config-dir": absolutePath.default("/etc/cni/net.d"),
    "config-file": absolutePath.optional(),
    // Where plugins are by CNI's own convention, and where Debian puts them.
    "plugin-dirs": z.array(absolutePath).min(1).max(16).default(["/opt/cni/bin", "/usr/lib/cni"]),
    "timeout-ms": z.int().min(100).max(600_000).default(60_000),
    "netns-dir": absolutePath.optional(),
  })
  .transform(
    (file): CniSettings => ({
      configDir: file["config-dir"],
      ...(file["config-file"] === undefined ? {} : { configFile: file["config-file"] }),
      pluginDirs: file["plugin-dirs"],
      timeoutMs: file["timeout-ms"],
      ...(file["netns-dir"] === undefined ? {} : { netnsDir: file["netns-dir"] }),
    }),
  );

export const networkSchema = z
  .strictObject({
    mode: z.enum(["auto", "builtin", "cni"]).default("auto"),
    cni: cniSchema.prefault({}),
    bridge: bridgeName.default("minke0"),
    "subnet-ipv4": z
      .string()
      .refine(isSubnet(4, 8, 29), 'must be an IPv4 subnet, /8 to /29, or "none"')
      .optional(),
    "subnet-ipv6": z
      .string()
      .refine(isSubnet(6, 48, 120), 'must be an IPv6 subnet, /48 to /120, or "none"')
      .optional(),
    // 1280 is the least that IPv6 works with (RFC 8200, section 5).
    mtu: z.int().min(1280).max(65_535).optional(),
    "isolate-from": z.array(linkName).max(64).default([]),
  })
  // What goes from pod to pod stays on the bridge, where the rules of forwarding do not see it: it would have no effect.
  .refine((file) => !file["isolate-from"].includes(file.bridge), {
    path: ["isolate-from"],
    error: "names the pods' own bridge: pods of one network are not isolated from each other",
  })
  .refine((file) => file["subnet-ipv4"] !== "none" || file["subnet-ipv6"] !== "none", {
    path: ["subnet-ipv6"],
    error: "both families are switched off",
  })
  .transform(
    (file): NetworkSettings => ({
      mode: file.mode,
      cni: file.cni,
      bridge: file.bridge,
      ...(file["subnet-ipv4"] === undefined ? {} : { subnet4: file["subnet-ipv4"] }),
      ...(file["subnet-ipv6"] === undefined ? {} : { subnet6: file["subnet-ipv6"] }),
      ...(file.mtu === undefined ? {} : { mtu: file.mtu }),
      isolateFrom: file["isolate-from"],
    }),
  );

function isSubnet(family: 4 | 6, shortest: number, longest: number): (text: string) => boolean {
  return (text) => {
    if (text === "none") return true;
    const [address, length, ...rest] = text.split("/");
    if (!address || !length || rest.length > 0 || !/^\d{1,3}$/.test(length)) return false;
    return isIP(address) === family && Number(length) >= shortest && Number(length) <= longest;
  };
}
