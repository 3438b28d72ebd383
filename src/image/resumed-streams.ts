/**
 * Which streams were put together from several answers of a registry: those may not have been of
 * one blob, as where a proxy serves an old one from its cache. Set by registry-body.ts.
 */
import type { Readable } from "node:stream";

const resumed = new WeakSet<Readable>();

export function markResumed(stream: Readable): void {
  resumed.add(stream);
}

export function wasResumed(stream: Readable): boolean {
  return resumed.has(stream);
}
