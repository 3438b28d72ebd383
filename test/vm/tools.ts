/** Programs of Go, built on the host, which the machine sees: crictl and critest. */
import { existsSync } from "node:fs";
import { CHECKOUT } from "./machine/host.js";

const BUILT_BY = { crictl: "bash .ci/crictl", critest: "npm run test:conformance" } as const;

/**
 * Path of a tool in `.cache/bin`. Called before anything is booted or started, so that a missing one is
 * told at once.
 */
export function requiredTool(name: keyof typeof BUILT_BY): string {
  const path = `${CHECKOUT}/.cache/bin/${name}`;
  if (existsSync(path)) return path;
  throw new Error(`${path} is missing: \`${BUILT_BY[name]}\` builds it (needs Go 1.26 or later)`);
}
