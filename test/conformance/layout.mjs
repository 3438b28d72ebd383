// @ts-check
/**
 * The images of critest as an OCI layout in .cache/conformance, made anew where what they are made from has changed.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeLayout } from "../../rootfs-fixtures/oci-layout.mjs";
import { conformanceImages } from "./images.mjs";

const SOURCES = [
  "test/conformance/images.mjs",
  "test/conformance/busybox.mjs",
  "rootfs-fixtures/images.mjs",
  "rootfs-fixtures/oci-layout.mjs",
];

/** Its path. @param {string} project */
export function builtLayout(project) {
  const cache = join(project, ".cache/conformance");
  const layout = join(cache, "layout");
  const inputs = SOURCES.map((path) => readFileSync(join(project, path), "utf8")).join("\0");
  const stamp = join(cache, "layout.inputs");
  if (existsSync(layout) && existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return layout;
  console.log("building critest's images");
  writeLayout(layout, conformanceImages({ fixtures: join(project, ".cache/rootfs-fixtures"), conformance: cache }));
  writeFileSync(stamp, inputs);
  return layout;
}
