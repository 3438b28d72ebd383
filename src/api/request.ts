/**
 * One request as the routes see it, and the ways to answer it.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { RuntimeError } from "../base/errors.js";

export interface ApiRequest {
  readonly message: IncomingMessage;
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
}

/** A manifest's limit, and some room for what JSON adds to YAML. */
const BODY_LIMIT_BYTES = 6 * 1024 * 1024;

export function invalidRequest(message: string): RuntimeError {
  return new RuntimeError(message, { kind: "invalid-argument", code: "INVALID_REQUEST" });
}

/** @throws RuntimeError `invalid-argument` INVALID_REQUEST for what is no path, such as `//` */
export function requestUrl(message: IncomingMessage): URL {
  try {
    return new URL(message.url ?? "/", "http://minke");
  } catch {
    throw invalidRequest(`${message.method} ${message.url}: no such resource`);
  }
}

export async function readBody(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of message) {
    const bytes = chunk as Buffer;
    size += bytes.length;
    if (size > BODY_LIMIT_BYTES) {
      throw new RuntimeError(`request body: larger than ${BODY_LIMIT_BYTES} bytes`, {
        kind: "invalid-argument",
        code: "MANIFEST_TOO_LARGE",
      });
    }
    chunks.push(bytes);
  }
  return Buffer.concat(chunks);
}

/** The body as an object; an empty one is `{}`. */
export async function readJsonObject(message: IncomingMessage): Promise<Record<string, unknown>> {
  const body = await readBody(message);
  if (body.length === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(body.toString("utf8"));
  } catch (err) {
    throw invalidRequest(`request body: ${err instanceof Error ? err.message : String(err)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw invalidRequest("request body: not an object");
  return value as Record<string, unknown>;
}

export function flag(query: URLSearchParams, name: string): boolean {
  const value = query.get(name);
  return value === "true" || value === "1";
}

/** A non-negative whole number, or `undefined` where it is not given. */
export function count(query: URLSearchParams, name: string): number | undefined {
  const value = query.get(name);
  if (value === null || value === "") return undefined;
  if (!/^\d{1,15}$/.test(value)) throw invalidRequest(`parameter ${name}: "${value}" is not a whole number`);
  return Number(value);
}

/** bigint has no JSON form: nanoseconds go as decimal strings. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_key, v: unknown) => (typeof v === "bigint" ? String(v) : v));
}

export function answer(response: ServerResponse, code: number, value: unknown): void {
  const body = Buffer.from(`${toJson(value)}\n`);
  response.writeHead(code, { "content-type": "application/json", "content-length": body.length });
  response.end(body);
}

/** Writes and waits where the client is slower than we are. False once it is gone. */
export async function writeBounded(response: ServerResponse, chunk: Uint8Array | string): Promise<boolean> {
  if (response.destroyed) return false;
  if (response.write(chunk)) return true;
  await new Promise<void>((resolve) => {
    const end = () => {
      response.off("drain", end);
      response.off("close", end);
      resolve();
    };
    response.on("drain", end);
    response.on("close", end);
  });
  return !response.destroyed;
}

/** Aborted when the client goes away before the answer is complete. */
export function clientSignal(response: ServerResponse): AbortSignal {
  const controller = new AbortController();
  response.on("close", () => {
    if (!response.writableFinished)
      controller.abort(new RuntimeError("the client went away", { kind: "cancelled", code: "CANCELLED" }));
  });
  return controller.signal;
}
