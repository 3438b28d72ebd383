/** A device of the host where no node can be made, as in a user namespace. Pure. */
import type { Mount } from "../oci/index.js";

/** The host's node, bound into the container. */
export function toDeviceMount(path: string, hostPath: string): Mount {
  return { destination: path, type: "bind", source: hostPath, options: ["bind", "rprivate", "nosuid", "noexec"] };
}
