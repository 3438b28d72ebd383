/**
 * One call of the gRPC health protocol (grpc/health/v1/health.proto), with its two messages by hand:
 * `HealthCheckRequest { string service = 1; }` and `HealthCheckResponse { ServingStatus status = 1; }`.
 */

const METHOD = "/grpc.health.v1.Health/Check";
const SERVING = 1;
const STATUS_NAMES = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/** Field 1, length-delimited, and field 1, varint (protobuf encoding). */
const SERVICE_TAG = 0x0a;
const STATUS_TAG = 0x08;

/** @param address `host:port` */
export async function askHealth(
  address: string,
  service: string,
  timeoutMs: number,
): Promise<{ isOk: boolean; message: string }> {
  // Read when the first such probe runs: most daemons never do.
  const { Client, credentials, Metadata } = await import("@grpc/grpc-js");
  // The host's proxy is for its own way out; a pod is next door.
  const client = new Client(address, credentials.createInsecure(), { "grpc.enable_http_proxy": 0 });
  try {
    const status = await new Promise<number>((resolve, reject) => {
      client.makeUnaryRequest<string, number>(
        METHOD,
        encodeRequest,
        decodeStatus,
        service,
        new Metadata(),
        { deadline: Date.now() + timeoutMs },
        (err, value) => (err ? reject(err) : resolve(value ?? 0)),
      );
    });
    return { isOk: status === SERVING, message: `service is ${STATUS_NAMES[status] ?? status}` };
  } finally {
    client.close();
  }
}

function encodeRequest(service: string): Buffer {
  if (service === "") return Buffer.alloc(0);
  const name = Buffer.from(service);
  const length: number[] = [];
  for (let rest = name.length; ; rest >>>= 7) {
    length.push(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest);
    if (rest <= 0x7f) break;
  }
  return Buffer.concat([Buffer.from([SERVICE_TAG, ...length]), name]);
}

function decodeStatus(bytes: Buffer): number {
  return bytes[0] === STATUS_TAG ? (bytes[1] ?? 0) : 0;
}
