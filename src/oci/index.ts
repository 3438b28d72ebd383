/**
 * The OCI specifications as TypeScript types: runtime-spec 1.3 and image-spec 1.1.
 *
 * Published as `minke/oci-spec-types`. Stands alone: imports nothing of minke.
 */
export * from "./features.js";
export * from "./image-spec.js";
export { specToJson } from "./json.js";
export * from "./linux.js";
export * from "./platforms.js";
export * from "./runtime-spec.js";
export * from "./seccomp.js";
