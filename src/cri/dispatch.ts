/**
 * The one edge between gRPC and the verbs: calls the verb, maps what it throws to a gRPC
 * status, logs each request once.
 *
 * Nothing else in src/cri knows gRPC's codes. The permanent code of an error travels in the
 * trailing metadata `minke-code`, so that a client can tell errors of one status apart.
 */
import { monotonicNs } from "../base/clock.js";
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { Call, OnCall } from "./grpc-server.js";
import { STATUS_BY_KIND } from "./status-codes.js";
import type { Method, RequestContext, Verbs } from "./verbs.js";
import { WIRE_METHODS, type WireMethod } from "./wire.js";

/** Trailers share HTTP/2's header list with the rest: a longer message could lose the whole status. */
const MAX_MESSAGE_CHARACTERS = 4096;

/** What goes on without its caller, and is joined when it is asked for again. */
const JOINED: ReadonlySet<Method> = new Set<Method>(["runPodSandbox", "createContainer"]);
/** So long before its deadline a caller is answered, at most: the answer has to get there. */
const MAX_MARGIN_MS = 500;
/** setTimeout's own limit. */
const MAX_TIMER_MS = 2 ** 31;
/** Methods that change nothing: a kubelet calls them every second, so they are logged as steps. */
const READS = /^(version|status|runtimeConfig|list|stream|.*Status$|.*Stats$|imageFsInfo|getContainerEvents)/;

type AnyVerb = (request: unknown, context: RequestContext) => unknown;

/** Told of each request once it has been answered: `ok`, or the kind of its error. */
export type Observe = (method: string, outcome: string, durationMs: number) => void;

interface Witness {
  readonly log: Logger;
  readonly observe: Observe;
}

/** Answers each call, of whatever path. */
export function toOnCall(verbs: Verbs, log: Logger, observe: Observe = () => undefined): OnCall {
  const witness = { log, observe };
  return (call) => {
    const method = WIRE_METHODS.get(call.path);
    if (!method) {
      call.fail(STATUS_BY_KIND.unimplemented, `method "${call.path}" is not one of CRI v1`, "NOT_IMPLEMENTED");
      return;
    }
    const verb = (verbs[method.name] as AnyVerb | undefined) ?? refuse(method.name);
    void (method.isStream ? answerStream : answerOnce)(method, verb, call, witness);
  };
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

async function answerOnce(method: WireMethod, verb: AnyVerb, call: Call, witness: Witness): Promise<void> {
  const startNs = monotonicNs();
  const caller = new Caller(call, JOINED.has(method.name));
  try {
    const response = await verb(method.read(call.message), caller);
    const bytes = method.write(response);
    caller.forget();
    call.answer(bytes);
    logSuccess(witness, method.name, startNs);
  } catch (err) {
    caller.forget();
    fail(call, logFailure(witness, method.name, startNs, err));
  }
}

async function answerStream(method: WireMethod, verb: AnyVerb, call: Call, witness: Witness): Promise<void> {
  const startNs = monotonicNs();
  const caller = new Caller(call, false);
  const { signal } = caller;
  try {
    const responses = verb(method.read(call.message), caller) as AsyncIterable<unknown>;
    for await (const response of responses) {
      if (signal.aborted) break;
      await call.write(method.write(response));
    }
    logSuccess(witness, method.name, startNs);
    call.end();
  } catch (err) {
    // The caller is gone: nobody is left to hear the status, and nothing failed.
    if (!signal.aborted) fail(call, logFailure(witness, method.name, startNs, err));
  } finally {
    caller.forget();
  }
}

/** A verb's caller. Its signal is made when it is first asked for: few verbs end before their work does. */
class Caller implements RequestContext {
  readonly #call: Call;
  readonly #answersInTime: boolean;
  #controller: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** @param answersInTime a little before the caller's deadline its verb is told to say why there is no answer yet */
  constructor(call: Call, answersInTime: boolean) {
    this.#call = call;
    this.#answersInTime = answersInTime;
    const leftMs = call.timeoutMs;
    const marginMs = answersInTime ? Math.min(MAX_MARGIN_MS, leftMs / 4) : 0;
    if (leftMs < MAX_TIMER_MS) this.#timer = setTimeout(() => this.#giveUp(), leftMs - marginMs);
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      this.#call.onCancel(() =>
        this.#abort(new RuntimeError("the caller went away", { kind: "cancelled", code: "CANCELLED" })),
      );
    }
    return this.#controller.signal;
  }

  /** To be called once it has been answered. */
  forget(): void {
    clearTimeout(this.#timer);
  }

  #abort(why: RuntimeError): void {
    clearTimeout(this.#timer);
    this.#controller?.abort(why);
  }

  #giveUp(): void {
    const late = new RuntimeError("not done before the caller's deadline", {
      kind: "deadline-exceeded",
      code: "CALLER_DEADLINE",
    });
    if (!this.#answersInTime) fail(this.#call, late);
    this.#abort(late);
  }
}

function logSuccess({ log, observe }: Witness, method: string, startNs: bigint): void {
  const fields = { method, durationMs: elapsedMs(startNs) };
  observe(method, "ok", fields.durationMs);
  if (READS.test(method)) log.debug(fields, "request answered");
  else log.info(fields, "request answered");
}

function logFailure({ log, observe }: Witness, method: string, startNs: bigint, thrown: unknown): RuntimeError {
  const err = toRuntimeError(thrown);
  const { kind, code, message, syscall } = err;
  const fields = { method, durationMs: elapsedMs(startNs), kind, code, message };
  observe(method, kind, fields.durationMs);
  const errno = syscall ? { syscall: syscall.name, errno: syscall.errno } : {};
  // A fault of our own is looked for in the source, so its stack is worth a line.
  const stack = kind === "internal" ? { stack: thrown instanceof Error ? thrown.stack : undefined } : {};
  log.error({ ...fields, ...errno, ...stack }, "request failed");
  return err;
}

function fail(call: Call, { kind, code, message }: RuntimeError): void {
  call.fail(STATUS_BY_KIND[kind], message.slice(0, MAX_MESSAGE_CHARACTERS), code);
}

function elapsedMs(startNs: bigint): number {
  return Number(monotonicNs() - startNs) / 1e6;
}
