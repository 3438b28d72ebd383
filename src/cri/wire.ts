/**
 * The methods by their paths, and their messages as bytes. Requests are read strictly: text that is not UTF-8 is
 * refused and not changed, bytes that are no message of the method have a status of their own.
 */
import { BinaryReader, type BinaryWriter } from "@bufbuild/protobuf/wire";
import { RuntimeError } from "../base/errors.js";
import { ImageServiceDefinition, RuntimeServiceDefinition } from "./generated/runtime/v1/api.js";
import { type Method, METHODS } from "./verbs.js";

/** A method as bytes. */
export interface WireMethod {
  readonly name: Method;
  readonly isStream: boolean;
  /** @throws RuntimeError `invalid-argument` MALFORMED_REQUEST */
  read(bytes: Uint8Array): unknown;
  write(response: unknown): Uint8Array;
}

/** Of both services: `/runtime.v1.RuntimeService/Version`. */
export const WIRE_METHODS: ReadonlyMap<string, WireMethod> = new Map(
  [RuntimeServiceDefinition, ImageServiceDefinition].flatMap(({ fullName, methods }) =>
    Object.keys(methods).map((name) => {
      const method = wireMethod(name as Method);
      return [`/${fullName}/${METHODS[name as Method].name}`, method] as const;
    }),
  ),
);

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** proto3 language guide, "Scalar Value Types": a string must always contain UTF-8. */
const decodeUtf8 = (bytes: Uint8Array): string => utf8.decode(bytes);

function wireMethod(name: Method): WireMethod {
  const { name: title, requestType, responseType, responseStream } = METHODS[name];
  const codec = responseType as { encode(response: unknown): BinaryWriter };
  return {
    name,
    isStream: responseStream,
    read: (bytes) => {
      try {
        return requestType.decode(new BinaryReader(bytes, decodeUtf8));
      } catch (err) {
        throw malformed(title, err);
      }
    },
    write: (response) => codec.encode(response).finish(),
  };
}

function malformed(title: string, cause: unknown): RuntimeError {
  const why = cause instanceof TypeError ? "a text in it is not UTF-8" : "the bytes are no such message";
  return new RuntimeError(`request of ${title}: ${why}`, {
    kind: "invalid-argument",
    code: "MALFORMED_REQUEST",
    cause,
  });
}
