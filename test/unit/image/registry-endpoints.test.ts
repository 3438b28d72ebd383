import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { endpointsOf } from "../../../src/image/registry-endpoints.js";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "minke-certs-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function put(path: string, text: string): Promise<void> {
  await mkdir(join(root, path, ".."), { recursive: true });
  await writeFile(join(root, path), text);
}

const bases = async (registry: string, settings = {}) =>
  (await endpointsOf(registry, settings, root)).map(({ base }) => base);

test("a registry that nobody configures has its default endpoint", async () => {
  expect(await bases("docker.io")).toEqual(["https://registry-1.docker.io/v2"]);
  expect(await bases("quay.io:8443")).toEqual(["https://quay.io:8443/v2"]);
});

test("mirrors of the settings come first, the registry itself last", async () => {
  const settings = { "docker.io": { mirrors: ["http://127.0.0.1:1", "https://m.example/hub"] } };
  const found = await endpointsOf("docker.io", settings, root);
  expect(found.map(({ base, isMirror }) => [base, isMirror])).toEqual([
    ["http://127.0.0.1:1/v2", true],
    ["https://m.example/hub/v2", true],
    ["https://registry-1.docker.io/v2", false],
  ]);
});

test("settings of a host win over its hosts.toml", async () => {
  await put("a.example/hosts.toml", 'server = "https://b.example"');
  expect(await bases("a.example", { "a.example": { endpoint: "http://127.0.0.1:5" } })).toEqual([
    "http://127.0.0.1:5/v2",
  ]);
});

test("plain-http and a configured authority choose the scheme", async () => {
  await put("ca.pem", "PEM");
  expect(await bases("a.example", { "a.example": { plainHttp: true } })).toEqual(["http://a.example/v2"]);
  const [found] = await endpointsOf("127.0.0.1:5", { "127.0.0.1:5": { ca: [join(root, "ca.pem")] } }, root);
  expect(found).toMatchObject({ base: "https://127.0.0.1:5/v2", tls: { ca: ["PEM"], skipVerify: false } });
});

test("a mirror has the TLS settings of its own host", async () => {
  const settings = { "a.example": { mirrors: ["https://m.example"] }, "m.example": { skipVerify: true } };
  const [mirror, registry] = await endpointsOf("a.example", settings, root);
  expect(mirror?.tls).toEqual({ skipVerify: true });
  expect(registry?.tls).toBeUndefined();
});

test("hosts.toml gives hosts in the order of the file, then the server", async () => {
  await put(
    "docker.io/hosts.toml",
    `server = "https://registry-1.docker.io"
    [host."https://z.example"]
      capabilities = ["pull"]
    [host."http://127.0.0.1:5000/v2/hub"]
      capabilities = ["pull", "resolve"]
      override_path = true
      [host."http://127.0.0.1:5000/v2/hub".header]
        X-Team = ["a", "b"]
    [host."m.example"]`,
  );
  const found = await endpointsOf("docker.io", {}, root);
  expect(found.map(({ base, canResolve }) => [base, canResolve])).toEqual([
    ["https://z.example/v2", false],
    ["http://127.0.0.1:5000/v2/hub", true],
    ["https://m.example/v2", true],
    ["https://registry-1.docker.io/v2", true],
  ]);
  expect(found[1]?.headers).toEqual({ "x-team": "a, b" });
});

test.each([
  ["a.example_5000_", "a.example:5000"],
  ["a.example:5000", "a.example:5000"],
  ["_default", "anything.example"],
])("the folder %s is read for %s", async (folder, registry) => {
  await put(`${folder}/hosts.toml`, '[host."https://m.example"]');
  expect(await bases(registry)).toEqual(["https://m.example/v2", `https://${registry}/v2`]);
});

test("certificates of hosts.toml are relative to its folder", async () => {
  await put("a.example/ca.pem", "CA");
  await put("a.example/client.pem", "BOTH");
  await put("a.example/hosts.toml", 'ca = "ca.pem"\nclient = "client.pem"\nskip_verify = true\n');
  const [found] = await endpointsOf("a.example", {}, root);
  expect(found?.tls).toEqual({ ca: ["CA"], cert: "BOTH", key: "BOTH", skipVerify: true });
});

test("a client of hosts.toml may be a pair of files", async () => {
  for (const name of ["c.pem", "k.pem"]) await put(`a.example/${name}`, name);
  await put("a.example/hosts.toml", '[host."https://m.example"]\nclient = [["c.pem", "k.pem"]]\n');
  const [found] = await endpointsOf("a.example", {}, root);
  expect(found?.tls).toEqual({ cert: "c.pem", key: "k.pem", skipVerify: false });
});

test("without hosts.toml the certificates of a folder are Docker's", async () => {
  for (const name of ["ca.crt", "client.cert", "client.key"]) await put(`a.example/${name}`, name);
  const [found] = await endpointsOf("a.example", {}, root);
  expect(found?.tls).toEqual({ ca: ["ca.crt"], cert: "client.cert", key: "client.key", skipVerify: false });
});

test.each([
  ["that is not TOML", "server = ", "Invalid"],
  ["with a wrong type", 'skip_verify = "yes"', "skip_verify"],
  ["that names a missing authority", 'ca = "gone.pem"', "gone.pem"],
])("a hosts.toml %s is invalid-argument SETTINGS_INVALID and names the file", async (_, text, word) => {
  await put("a.example/hosts.toml", text);
  const failure = endpointsOf("a.example", {}, root);
  await expect(failure).rejects.toMatchObject({ kind: "invalid-argument", code: "SETTINGS_INVALID" });
  await expect(failure).rejects.toThrow("a.example/hosts.toml");
  await expect(failure).rejects.toThrow(word);
});
