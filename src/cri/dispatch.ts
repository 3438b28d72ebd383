/**
 * The one edge between gRPC and the verbs: calls the verb, maps what it throws to a gRPC
 * status, logs each request once.
 *
 * Nothing else in src/cri knows gRPC's codes. The permanent code of an error travels in the
 * trailing metadata `minke-code`, so that a client can tell errors of one status apart.
 */
import { once } from "node:events";
import {
  Metadata,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { monotonicNs } from "../base/clock.js";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { STATUS_BY_KIND } from "./status-codes.js";
import type { Method, RequestContext, Verbs } from "./verbs.js";
import { MalformedRequest } from "./wire.js";

/** Trailers share HTTP/2's header list with the rest: a longer message could lose the whole status. */
const MAX_MESSAGE_CHARACTERS = 4096;

/** What goes on without its caller, and is joined when it is asked for again. */
const JOINED = /^(runPodSandbox|createContainer)$/;
/** So long before its deadline a caller is answered, at most: the answer has to get there. */
const MAX_MARGIN_MS = 500;
/** setTimeout's own limit. */
const MAX_TIMER_MS = 2 ** 31;
/** Methods that change nothing: a kubelet calls them every second, so they are logged as steps. */
const READS = /^(version|status|runtimeConfig|list|stream|.*Status$|.*Stats$|imageFsInfo|getContainerEvents)/;

type AnyVerb = (request: unknown, context: RequestContext) => unknown;
type AnyCall = ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>;

/** Told of each request once it has been answered: `ok`, or the kind of its error. */
export type Observe = (method: string, outcome: string, durationMs: number) => void;

interface Witness {
  readonly log: Logger;
  readonly observe: Observe;
}

/** Every method of a service as grpc-js wants it, whether there is a verb for it or not. */
export function toImplementation(
  service: ServiceDefinition,
  verbs: Verbs,
  log: Logger,
  observe: Observe = () => undefined,
): UntypedServiceImplementation {
  const witness = { log, observe };
  return Object.fromEntries(
    Object.entries(service).map(([name, definition]) => {
      const verb = (verbs[name as Method] as AnyVerb | undefined) ?? refuse(name);
      return [name, definition.responseStream ? streamCall(name, verb, witness) : unaryCall(name, verb, witness)];
    }),
  );
}

function refuse(name: string): AnyVerb {
  const method = name.charAt(0).toUpperCase() + name.slice(1);
  return () => {
    throw new RuntimeError(`${method} is not implemented in this version`, {
      kind: "unimplemented",
      code: "NOT_IMPLEMENTED",
    });
  };
}

function unaryCall(method: string, verb: AnyVerb, witness: Witness) {
  return (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>): void => {
    const startNs = monotonicNs();
    const caller = new Caller(call, JOINED.test(method));
    const answer = async () => verb(readable(call.request), caller);
    answer().then(
      (response) => {
        caller.forget();
        logSuccess(witness, method, startNs);
        callback(null, response);
      },
      (err: unknown) => {
        caller.forget();
        callback(logFailure(witness, method, startNs, err));
      },
    );
  };
}

function streamCall(method: string, verb: AnyVerb, witness: Witness) {
  return (call: ServerWritableStream<unknown, unknown>): void => {
    const startNs = monotonicNs();
    const { signal } = new Caller(call, false);
    const pump = async () => {
      const responses = verb(readable(call.request), { signal }) as AsyncIterable<unknown>;
      for await (const response of responses) {
        if (signal.aborted) break;
        if (!call.write(response)) await once(call, "drain", { signal });
      }
    };
    pump().then(
      () => {
        logSuccess(witness, method, startNs);
        call.end();
      },
      (err: unknown) => {
        // The caller is gone: nobody is left to hear the status, and nothing failed.
        if (signal.aborted) call.end();
        else call.emit("error", logFailure(witness, method, startNs, err));
      },
    );
  };
}

/** @throws RuntimeError `invalid-argument` MALFORMED_REQUEST */
function readable(request: unknown): unknown {
  if (request instanceof MalformedRequest) throw request.error;
  return request;
}

/** A verb's caller. Its signal is made when it is first asked for: few verbs end before their work does. */
class Caller implements RequestContext {
  readonly #call: AnyCall;
  #controller: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #leave = (): void =>
    this.#controller?.abort(new RuntimeError("the caller went away", { kind: "cancelled", code: "CANCELLED" }));

  /** @param answersInTime a little before the caller's deadline it is told why there is no answer yet */
  constructor(call: AnyCall, answersInTime: boolean) {
    this.#call = call;
    const leftMs = answersInTime ? Number(call.getDeadline()) - Date.now() : Number.POSITIVE_INFINITY;
    if (leftMs < MAX_TIMER_MS)
      this.#timer = setTimeout(() => this.#giveUp(), leftMs - Math.min(MAX_MARGIN_MS, leftMs / 4));
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.#call.cancelled) this.#leave();
      else this.#call.once("cancelled", this.#leave);
    }
    return this.#controller.signal;
  }

  /** To be called once it has been answered: grpc-js says "cancelled" of calls that were answered too. */
  forget(): void {
    this.#call.off("cancelled", this.#leave);
    clearTimeout(this.#timer);
  }

  #giveUp(): void {
    this.#controller?.abort(
      new RuntimeError("not done before the caller's deadline", {
        kind: "deadline-exceeded",
        code: "CALLER_DEADLINE",
      }),
    );
  }
}

function logSuccess({ log, observe }: Witness, method: string, startNs: bigint): void {
  const fields = { method, durationMs: elapsedMs(startNs) };
  observe(method, "ok", fields.durationMs);
  if (READS.test(method)) log.debug(fields, "request answered");
  else log.info(fields, "request answered");
}

function logFailure({ log, observe }: Witness, method: string, startNs: bigint, thrown: unknown) {
  const err = toRuntimeError(thrown);
  const { kind, code, message, syscall } = err;
  const fields = { method, durationMs: elapsedMs(startNs), kind, code, message };
  observe(method, kind, fields.durationMs);
  const errno = syscall ? { syscall: syscall.name, errno: syscall.errno } : {};
  // A fault of our own is looked for in the source, so its stack is worth a line.
  const stack = kind === "internal" ? { stack: thrown instanceof Error ? thrown.stack : undefined } : {};
  log.error({ ...fields, ...errno, ...stack }, "request failed");

  const metadata = new Metadata();
  metadata.set("minke-code", code);
  return { code: STATUS_BY_KIND[kind], details: message.slice(0, MAX_MESSAGE_CHARACTERS), metadata };
}

function elapsedMs(startNs: bigint): number {
  return Number(monotonicNs() - startNs) / 1e6;
}
