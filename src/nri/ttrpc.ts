/**
 * ttrpc, both ends of it, over one connection of a Multiplex: a header of ten bytes (length, stream, type,
 * flags; big-endian), then a protobuf message (PROTOCOL.md of containerd/ttrpc).
 *
 * Only unary calls: nothing of NRI streams. Streams that a client opens have odd numbers.
 */
import { RuntimeError, toRuntimeError } from "../base/errors.js";
import { Request, Response } from "./generated/ttrpc/ttrpc.js";
import { ByteQueue, protocolError } from "./multiplex.js";

const HEADER_BYTES = 10;
export const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;
const TYPE = { request: 1, response: 2 } as const;

/** google.rpc.Code, the numbers that are met here. */
export const STATUS = { ok: 0, unknown: 2, unimplemented: 12, internal: 13 } as const;

/** Cuts the bytes of one connection into messages. @throws RuntimeError `unavailable` NRI_PLUGIN_FAILED */
class MessageReader {
  readonly #bytes = new ByteQueue();
  #header: Buffer | undefined;

  *read(chunk: Buffer): Generator<{ stream: number; type: number; body: Buffer }> {
    this.#bytes.push(chunk);
    for (;;) {
      this.#header ??= this.#bytes.take(HEADER_BYTES);
      if (!this.#header) return;
      const length = this.#header.readUInt32BE(0);
      if (length > MAX_MESSAGE_BYTES) {
        throw protocolError(`a message of ${length} bytes, and ${MAX_MESSAGE_BYTES} is the most`);
      }
      const body = this.#bytes.take(length);
      if (!body) return;
      const [stream, type] = [this.#header.readUInt32BE(4), this.#header.readUInt8(8)];
      this.#header = undefined;
      yield { stream, type, body };
    }
  }
}

function frame(stream: number, type: number, body: Uint8Array): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(body.length, 0);
  header.writeUInt32BE(stream, 4);
  header.writeUInt8(type, 8);
  return Buffer.concat([header, body]);
}

/** What a call that the peer refused is told. */
export class CallRefused extends Error {
  /** google.rpc.Code */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

interface PendingCall {
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (err: Error) => void;
}

export class TtrpcClient {
  readonly #service: string;
  readonly #send: (message: Buffer) => void;
  readonly #reader = new MessageReader();
  readonly #pending = new Map<number, PendingCall>();
  #nextStream = 1;
  #closed: RuntimeError | undefined;

  constructor(service: string, send: (message: Buffer) => void) {
    this.#service = service;
    this.#send = send;
  }

  /**
   * @throws CallRefused what the peer answered; RuntimeError `deadline-exceeded` NRI_PLUGIN_TIMEOUT,
   *   `unavailable` NRI_PLUGIN_FAILED where the connection ends first,
   *   `resource-exhausted` NRI_PLUGIN_FAILED for a message over 4 MiB
   */
  async call(method: string, payload: Uint8Array, timeoutMs: number): Promise<Buffer> {
    if (this.#closed) throw this.#closed;
    const stream = this.#nextStream;
    this.#nextStream += 2;
    const timeoutNano = BigInt(timeoutMs) * 1_000_000n;
    const body = Request.encode({
      service: this.#service,
      method,
      payload: Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength),
      timeoutNano,
    }).finish();
    if (body.length > MAX_MESSAGE_BYTES) {
      throw new RuntimeError(`${method}: ${body.length} bytes, and ${MAX_MESSAGE_BYTES} is the most`, {
        kind: "resource-exhausted",
        code: "NRI_PLUGIN_FAILED",
      });
    }
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<Buffer>((resolve, reject) => {
        this.#pending.set(stream, { resolve, reject });
        timer = setTimeout(() => reject(timedOut(method, timeoutMs)), timeoutMs);
        this.#send(frame(stream, TYPE.request, body));
      });
    } finally {
      clearTimeout(timer);
      this.#pending.delete(stream);
    }
  }

  /** @throws RuntimeError `unavailable` NRI_PLUGIN_FAILED for what is no response */
  take(chunk: Buffer): void {
    for (const { stream, type, body } of this.#reader.read(chunk)) {
      if (type !== TYPE.response) throw protocolError(`a message of type ${type} instead of a response`);
      const { status, payload } = decoded(() => Response.decode(body));
      // One that came too late has nobody waiting.
      const call = this.#pending.get(stream);
      if (status && status.code !== STATUS.ok) call?.reject(new CallRefused(status.code, status.message));
      else call?.resolve(payload);
    }
  }

  close(reason: RuntimeError): void {
    this.#closed = reason;
    for (const { reject } of this.#pending.values()) reject(reason);
  }
}

function timedOut(method: string, timeoutMs: number): RuntimeError {
  return new RuntimeError(`${method}: no answer within ${timeoutMs} ms`, {
    kind: "deadline-exceeded",
    code: "NRI_PLUGIN_TIMEOUT",
  });
}

/** Answers a method's payload with another. */
export type TtrpcMethod = (payload: Buffer) => Promise<Uint8Array>;

export class TtrpcServer {
  readonly #service: string;
  readonly #methods: Readonly<Record<string, TtrpcMethod>>;
  readonly #send: (message: Buffer) => void;
  readonly #reader = new MessageReader();
  #underway = 0;

  constructor(service: string, methods: Readonly<Record<string, TtrpcMethod>>, send: (message: Buffer) => void) {
    this.#service = service;
    this.#methods = methods;
    this.#send = send;
  }

  /** @throws RuntimeError `unavailable` NRI_PLUGIN_FAILED for what is no request */
  take(chunk: Buffer): void {
    for (const { stream, type, body } of this.#reader.read(chunk)) {
      if (type !== TYPE.request) throw protocolError(`a message of type ${type} instead of a request`);
      if (stream % 2 === 0) throw protocolError(`a call on stream ${stream}, which is not odd`);
      if (this.#underway >= MAX_UNDERWAY) throw protocolError(`more than ${MAX_UNDERWAY} calls at once`);
      const request = decoded(() => Request.decode(body));
      void this.#answer(stream, request);
    }
  }

  async #answer(stream: number, request: Request): Promise<void> {
    this.#underway++;
    try {
      const payload = await this.#run(request);
      this.#reply(stream, { status: undefined, payload: Buffer.from(payload) });
    } catch (err) {
      const code = err instanceof CallRefused ? err.status : STATUS.unknown;
      this.#reply(stream, { status: { code, message: toRuntimeError(err).message }, payload: Buffer.alloc(0) });
    } finally {
      this.#underway--;
    }
  }

  async #run({ service, method, payload }: Request): Promise<Uint8Array> {
    const known = service === this.#service && Object.hasOwn(this.#methods, method) && this.#methods[method];
    if (!known) throw new CallRefused(STATUS.unimplemented, `method ${service}/${method} is not known here`);
    return known(payload);
  }

  #reply(stream: number, response: Response): void {
    this.#send(frame(stream, TYPE.response, Response.encode(response).finish()));
  }
}

/** Of one plugin. */
const MAX_UNDERWAY = 64;

/** What the generated code throws at garbage, as our own error. */
export function decoded<T>(decode: () => T): T {
  try {
    return decode();
  } catch (err) {
    throw protocolError(`what it sent is not the message that it should be (${String(err)})`, err);
  }
}
