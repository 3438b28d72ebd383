/** gRPC by hand over Node's HTTP/2 client: for requests that no gRPC library would send. */
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";

/** The caller destroys it. */
export function connectRaw(socketPath: string): ClientHttp2Session {
  return connectHttp2("http://localhost", { createConnection: () => connect(socketPath) });
}

/** A call whose request has been sent. */
export function callRaw(
  session: ClientHttp2Session,
  path: string,
  body: Uint8Array,
  headers: Readonly<Record<string, string>> = {},
): ClientHttp2Stream {
  const stream = session.request({
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc",
    te: "trailers",
    ...headers,
  });
  stream.end(body);
  return stream;
}

/** A message with its prefix, which may lie about its length and its compression. */
export function framed(message: Uint8Array, length = message.length, flag = 0): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt8(flag, 0);
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, message]);
}
