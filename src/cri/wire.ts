/**
 * Requests as bytes -> messages, strictly: text that is not UTF-8 and bytes that are no message of the method
 * are refused by the edge with a status of their own, where grpc-js would answer INTERNAL to both or, of
 * text, change what was asked for. Called by server.ts and dispatch.ts.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import type { ServiceDefinition } from "@grpc/grpc-js";
import { RuntimeError } from "../base/errors.js";

/** A request that could not be read, in the place of its message: the dispatch throws what it carries. */
export class MalformedRequest {
  readonly error: RuntimeError;

  constructor(error: RuntimeError) {
    this.error = error;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** proto3 language guide, "Scalar Value Types": a string must always contain UTF-8. */
const decodeUtf8 = (bytes: Uint8Array): string => utf8.decode(bytes);

/** The same service, whose methods hand on what they cannot read as a MalformedRequest. */
export function readStrictly<Service extends ServiceDefinition>(service: Service): Service {
  const methods = Object.entries(service).map(([name, method]) => {
    const { requestDeserialize } = method;
    const read = (bytes: Buffer): unknown => {
      try {
        // ts-proto's decoders take a reader too; their type here says bytes.
        return requestDeserialize(new BinaryReader(bytes, decodeUtf8) as unknown as Buffer);
      } catch (err) {
        return new MalformedRequest(malformed(method.path, err));
      }
    };
    return [name, { ...method, requestDeserialize: read }];
  });
  return Object.fromEntries(methods) as Service;
}

function malformed(path: string, cause: unknown): RuntimeError {
  const why = cause instanceof TypeError ? "a text in it is not UTF-8" : "the bytes are no such message";
  return new RuntimeError(`request of ${path.split("/").at(-1)}: ${why}`, {
    kind: "invalid-argument",
    code: "MALFORMED_REQUEST",
    cause,
  });
}
