/**
 * Port-forward over SPDY/3.1, `portforward.k8s.io`: for each connection the client opens an error and a
 * data stream, paired by the header `requestID` and naming the `port`. Knows no sandbox.
 */
import type { Duplex } from "node:stream";
import { copy, finish } from "./copy.js";
import type { SpdyConnection, SpdyStream } from "./spdy/connection.js";

export const PORT_FORWARD_PROTOCOL = "portforward.k8s.io";

/** How long the second stream of a pair may take. */
const PAIR_MS = 30_000;

export interface PortForward {
  /** A connection to a port of the pod's localhost; both of its halves end apart. */
  dial(port: number): Promise<Duplex>;
}

interface Pair {
  data?: SpdyStream;
  error?: SpdyStream;
  readonly timer: NodeJS.Timeout;
}

/** Pairs and serves the streams of one connection; pass `take` as the connection's `onStream`. */
export class PortForwardStreams {
  readonly #forward: PortForward;
  readonly #pairs = new Map<string, Pair>();
  /** Connections into the pod that are open now. */
  readonly #open = new Set<Duplex>();
  #isClosed = false;

  constructor(forward: PortForward) {
    this.#forward = forward;
  }

  /** @throws for a stream that names no type or no port, or a second one of its type */
  take(stream: SpdyStream): void {
    const type = stream.headers.get("streamtype");
    const port = Number(stream.headers.get("port"));
    if (type !== "data" && type !== "error") throw new Error(`a stream of type "${type}"`);
    if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new Error(`port ${stream.headers.get("port")}`);
    // Clients before 1.4 send no requestID: their data stream is the next after its error stream.
    const key = stream.headers.get("requestid") ?? `stream ${type === "error" ? stream.id : stream.id - 2}`;
    const pair = this.#pairs.get(key) ?? this.#newPair(key);
    if (pair[type]) throw new Error(`a second ${type} stream of request "${key}"`);
    pair[type] = stream;
    if (!pair.data || !pair.error) return;
    this.#forget(key, pair);
    void this.#serve(port, pair.data, pair.error);
  }

  #newPair(key: string): Pair {
    const pair: Pair = {
      timer: setTimeout(() => {
        this.#pairs.delete(key);
        pair.data?.destroy();
        pair.error?.destroy();
      }, PAIR_MS),
    };
    this.#pairs.set(key, pair);
    return pair;
  }

  #forget(key: string, pair: Pair): void {
    clearTimeout(pair.timer);
    this.#pairs.delete(key);
  }

  async #serve(port: number, data: SpdyStream, error: SpdyStream): Promise<void> {
    // The client ends its side of the error stream at once; it must be read for that to be seen.
    error.resume();
    let failure: Buffer | undefined;
    try {
      await this.#connect(port, data);
    } catch (err) {
      failure = Buffer.from(`forward port ${port}: ${err instanceof Error ? err.message : String(err)}`);
    }
    data.resume();
    await Promise.all([finish(error, failure), finish(data)]);
  }

  async #connect(port: number, data: SpdyStream): Promise<void> {
    const target = await this.#forward.dial(port);
    if (this.#isClosed) {
      target.destroy();
      return;
    }
    this.#open.add(target);
    target.on("error", () => undefined);
    data.once("close", () => {
      if (!data.readableEnded || !data.writableFinished) target.destroy();
    });
    const toPod = copy(data, target).then(
      () => target.end(),
      () => target.destroy(),
    );
    try {
      await copy(target, data).catch((err: unknown) => {
        // A client that resets its stream has had enough: that is the end of it, and no failure of the pod's.
        if (!data.destroyed) throw err;
      });
      data.end();
      if (!target.destroyed) await Promise.race([toPod, new Promise((resolve) => target.once("close", resolve))]);
    } finally {
      target.destroy();
      this.#open.delete(target);
    }
  }

  /** The client is gone. */
  close(): void {
    this.#isClosed = true;
    for (const [key, pair] of this.#pairs) this.#forget(key, pair);
    for (const target of this.#open) target.destroy();
  }
}

/** Serves until the client is gone. */
export async function servePortForward(connection: SpdyConnection, streams: PortForwardStreams): Promise<void> {
  await connection.closed;
  streams.close();
}
