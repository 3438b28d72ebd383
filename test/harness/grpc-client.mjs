/** A client of grpc-js for a service as src/cri/generated has it: the daemon itself has no use for one. */
import { makeGenericClientConstructor } from "@grpc/grpc-js";

/**
 * @param {{ fullName: string, methods: Record<string, any> }} service
 * @returns {any} a class, made with an address, credentials and options; `service` is what it has
 */
export function clientOf({ fullName, methods }) {
  const definition = Object.entries(methods).map(([key, method]) => [key, definitionOf(fullName, method)]);
  return makeGenericClientConstructor(Object.fromEntries(definition), fullName);
}

/** @param {string} fullName @param {any} method */
function definitionOf(fullName, { name, requestType, responseType, requestStream, responseStream }) {
  const serialize = (/** @type {any} */ type) => (/** @type {object} */ message) =>
    Buffer.from(type.encode(message).finish());
  const deserialize = (/** @type {any} */ type) => (/** @type {Buffer} */ bytes) => type.decode(bytes);
  return {
    path: `/${fullName}/${name}`,
    requestStream,
    responseStream,
    requestSerialize: serialize(requestType),
    requestDeserialize: deserialize(requestType),
    responseSerialize: serialize(responseType),
    responseDeserialize: deserialize(responseType),
  };
}
