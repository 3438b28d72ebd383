import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { endpoint } from "../../../src/image/registry-endpoint.js";
import { RegistryTransport } from "../../../src/image/registry-transport.js";

const server = createServer((_, response) => response.end("there"));
const transport = new RegistryTransport();

beforeAll(() => new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve)));
afterAll(async () => {
  await transport.close();
  server.close();
});

function get(headers: Readonly<Record<string, string>>) {
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return transport.send({
    endpoint: endpoint(address, { reason: "test", headers: {} }),
    url: new URL(`${address}/v2/`),
    headers,
    subject: "it",
    signal: AbortSignal.timeout(20_000),
  });
}

test("headers that cannot be are errors without their value, and hold up no later request to the host", async () => {
  // More than there are connections to a host: undici leaves one waiting for each.
  for (let i = 0; i < 20; i++) {
    await expect(get({ authorization: "Bearer secret\n" })).rejects.toMatchObject({
      code: "REGISTRY_UNAVAILABLE",
      message: 'get it: the header "authorization" would hold what no header may',
    });
  }
  expect(await (await get({})).body.text()).toBe("there");
});
