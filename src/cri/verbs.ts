/**
 * What can be asked over CRI, as types derived from the generated services: a verb takes a
 * request and answers a response, or a stream of them. Verbs throw RuntimeError and know no gRPC.
 */
import { ImageServiceDefinition, RuntimeServiceDefinition } from "./generated/runtime/v1/api.js";

export const METHODS = { ...RuntimeServiceDefinition.methods, ...ImageServiceDefinition.methods } as const;

export type Method = keyof typeof METHODS;

export type RequestOf<M extends Method> = ReturnType<(typeof METHODS)[M]["requestType"]["decode"]>;
export type ResponseOf<M extends Method> = ReturnType<(typeof METHODS)[M]["responseType"]["decode"]>;

type StreamingMethod = { [M in Method]: (typeof METHODS)[M]["responseStream"] extends true ? M : never }[Method];

/** How a request's caller and its end are seen by a verb. */
export interface RequestContext {
  /** Aborted when the caller cancels, goes away or its deadline passes. */
  readonly signal: AbortSignal;
}

export type Verb<M extends Method> = (
  request: RequestOf<M>,
  context: RequestContext,
) => M extends StreamingMethod ? AsyncIterable<ResponseOf<M>> : Promise<ResponseOf<M>> | ResponseOf<M>;

/** The verbs that a daemon has; those that are absent answer `unimplemented` NOT_IMPLEMENTED. */
export type Verbs = { readonly [M in Method]?: Verb<M> };
