/** The only door to the addon: typed functions; descriptors are `Fd`, failures are RuntimeErrors. */
export { builtFile, syscallError } from "./addon.js";
export { Fd } from "./fd.js";
export * from "./file-steps.js";
export * from "./files.js";
export * from "./grpc-session.js";
export * from "./kernel-files.js";
export * from "./mounts.js";
export * from "./namespaces.js";
export * from "./processes.js";
export * from "./sockets.js";
