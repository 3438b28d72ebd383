/**
 * Copying between streams whose ends come and go apart, with back-pressure and without an error
 * on one side tearing down the other.
 */
import type { Readable, Writable } from "node:stream";

/**
 * Reads `source` to its end and writes it to `sink`. A sink that is gone or absent takes nothing, and the
 * rest is read and dropped: a full pipe would hold up the process behind it. The sink is not ended.
 *
 * @throws what `source` was destroyed with
 */
export async function copy(source: Readable, sink: Writable | undefined): Promise<void> {
  // Without this, the end of a duplex's readable half would take its writable half away.
  for await (const chunk of source.iterator({ destroyOnReturn: false })) await write(sink, chunk as Buffer);
}

/** Settles when the sink has taken the bytes, or is gone. */
function write(sink: Writable | undefined, chunk: Buffer): Promise<void> | undefined {
  if (!sink || sink.destroyed || sink.writableEnded || sink.write(chunk)) return undefined;
  return new Promise((resolve) => {
    const settle = () => {
      sink.off("drain", settle);
      sink.off("close", settle);
      resolve();
    };
    sink.on("drain", settle);
    sink.on("close", settle);
  });
}

/** Ends a sink, with a last chunk where there is one, and settles when that has gone out or cannot any more. */
export function finish(sink: Writable, last?: Buffer): Promise<void> {
  return new Promise((resolve) => {
    if (sink.destroyed || sink.writableEnded) return resolve();
    sink.once("close", resolve);
    if (last) sink.end(last, () => resolve());
    else sink.end(() => resolve());
  });
}
