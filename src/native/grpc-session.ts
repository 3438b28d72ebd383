/**
 * The server's side of one gRPC connection, as a machine that is fed (native/grpc/session.h): bytes in, calls
 * out; answers in, bytes out.
 */
import { addon } from "./addon.js";

/** What a peer asks, in fours; `path` is undefined of a call that it has given up. */
export type GrpcEvents = readonly (number | string | Uint8Array | undefined)[];

/** Methods do nothing for a stream that has ended, or after `close`. Streams are HTTP/2's numbers. */
export interface GrpcSession {
  /** `stream, path, timeoutMs, message` of each; false where the peer speaks no HTTP/2. `timeoutMs` is negative for none. */
  receive(bytes: Uint8Array): GrpcEvents | false | undefined;
  /** The one answer of a unary call. */
  answer(stream: number, message: Uint8Array): void;
  /** @param status gRPC's number @param code minke's, "" for none */
  fail(stream: number, status: number, message: string, code: string): void;
  /** One more answer of a stream. */
  write(stream: number, message: Uint8Array): void;
  end(stream: number): void;
  /** Bytes of a stream's answers that have not been taken. */
  queued(stream: number): number;
  /** Some of what is to be sent now; `undefined` where that is nothing. */
  take(): Buffer | undefined;
  /** New calls are left to another connection. */
  goAway(): void;
  /** The connection can be closed once what was taken is sent. */
  isOver(): boolean;
  /** Gives its memory back, which JavaScript's collector does not see. */
  close(): void;
}

/** @param maxMessageBytes of a request; a longer one is refused */
export function createGrpcSession(maxMessageBytes: number): GrpcSession {
  return new (addon().GrpcSession)(maxMessageBytes);
}
