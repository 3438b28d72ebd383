import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { credentialOf, credentialOfDockerConfig } from "../../../src/image/credentials.js";

let dir: string;
const pathBefore = process.env["PATH"];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "minke-credentials-"));
  process.env["PATH"] = `${dir}${delimiter}${pathBefore}`;
});
afterEach(async () => {
  process.env["PATH"] = pathBefore;
  await rm(dir, { recursive: true, force: true });
});

const base64 = (text: string) => Buffer.from(text).toString("base64");
async function config(document: object): Promise<string> {
  const path = join(dir, "config.json");
  await writeFile(path, JSON.stringify(document));
  return path;
}
async function helper(name: string, script: string): Promise<void> {
  await writeFile(join(dir, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`);
  await chmod(join(dir, `docker-credential-${name}`), 0o755);
}

test("an AuthConfig of another server gives nothing", () => {
  const auth = { username: "u", password: "p", serverAddress: "https://b.example/v1/" };
  expect(credentialOf(auth, "a.example", "test")).toBeUndefined();
  expect(credentialOf(auth, "b.example", "test")).toMatchObject({ username: "u", password: "p" });
});

test("an auth of base64 may hold colons in its password", () => {
  expect(credentialOf({ auth: base64("u:p:q") }, "a", "test")).toMatchObject({ username: "u", password: "p:q" });
});

test("an auth without a colon is invalid-argument INVALID_CREDENTIAL that does not tell it", () => {
  const auth = base64("geheim");
  expect(() => credentialOf({ auth }, "a", "test")).toThrow(
    expect.objectContaining({ code: "INVALID_CREDENTIAL", message: expect.not.stringContaining(auth) }),
  );
});

test("config.json gives a host its own credential and no other's", async () => {
  const path = await config({
    auths: { "a.example": { auth: base64("a:1") }, "https://b.example/v2/": { auth: base64("b:2") } },
  });
  expect(await credentialOfDockerConfig(path, "a.example", "x")).toMatchObject({ username: "a" });
  expect(await credentialOfDockerConfig(path, "b.example", "x")).toMatchObject({ username: "b" });
  expect(await credentialOfDockerConfig(path, "a.example:5000", "x")).toBeUndefined();
  expect(await credentialOfDockerConfig(path, "evil.a.example", "x")).toBeUndefined();
});

test("the key of Docker Hub's old index is docker.io", async () => {
  const path = await config({ auths: { "https://index.docker.io/v1/": { identitytoken: "t" } } });
  expect(await credentialOfDockerConfig(path, "docker.io", "library/x")).toMatchObject({ identityToken: "t" });
});

test("the entry with the longest path that fits the repository wins", async () => {
  const path = await config({
    auths: { "a.example": { auth: base64("all:1") }, "a.example/team": { auth: base64("team:1") } },
  });
  expect(await credentialOfDockerConfig(path, "a.example", "team/x")).toMatchObject({ username: "team" });
  expect(await credentialOfDockerConfig(path, "a.example", "teams/x")).toMatchObject({ username: "all" });
});

test("a helper is asked for its host on standard input and wins over the file", async () => {
  await helper(
    "one",
    'read host; echo "{\\"ServerURL\\":\\"$host\\",\\"Username\\":\\"$host\\",\\"Secret\\":\\"s\\"}"',
  );
  const path = await config({
    credHelpers: { "a.example": "one" },
    auths: { "a.example": { auth: base64("file:1") } },
  });
  expect(await credentialOfDockerConfig(path, "a.example", "x")).toMatchObject({
    username: "a.example",
    password: "s",
    source: "credential helper docker-credential-one",
  });
  expect(await credentialOfDockerConfig(path, "b.example", "x")).toBeUndefined();
});

test("a helper's <token> is an identity token", async () => {
  await helper("store", 'cat >/dev/null; echo \'{"Username":"<token>","Secret":"t"}\'');
  const path = await config({ credsStore: "store" });
  expect(await credentialOfDockerConfig(path, "a.example", "x")).toMatchObject({ identityToken: "t", username: "" });
});

test("a store that has none leaves it to the file", async () => {
  await helper("store", "echo 'credentials not found in native keychain'; exit 1");
  const path = await config({ credsStore: "store", auths: { "a.example": { auth: base64("file:1") } } });
  expect(await credentialOfDockerConfig(path, "a.example", "x")).toMatchObject({ username: "file" });
});

test.each([
  ["fails", "echo sehrgeheim; echo sehrgeheim >&2; exit 3"],
  ["gives no JSON", "cat >/dev/null; echo sehrgeheim"],
  ["gives half an answer", 'cat >/dev/null; echo \'{"Secret":"sehrgeheim"}\''],
])("a helper that %s is unavailable CREDENTIAL_HELPER_FAILED and what it said is not told", async (_, script) => {
  await helper("bad", script);
  const failure = credentialOfDockerConfig(await config({ credsStore: "bad" }), "a.example", "x");
  await expect(failure).rejects.toMatchObject({
    kind: "unavailable",
    code: "CREDENTIAL_HELPER_FAILED",
    message: expect.not.stringContaining("sehrgeheim"),
  });
});

test("a config.json that is not JSON is DOCKER_CONFIG_INVALID and not quoted", async () => {
  const path = join(dir, "config.json");
  await writeFile(path, '{"auths": sehrgeheim');
  await expect(credentialOfDockerConfig(path, "a", "x")).rejects.toMatchObject({
    code: "DOCKER_CONFIG_INVALID",
    message: expect.not.stringContaining("sehrgeheim"),
  });
});

test("a missing config.json has no credentials", async () => {
  expect(await credentialOfDockerConfig(join(dir, "none"), "a", "x")).toBeUndefined();
});
