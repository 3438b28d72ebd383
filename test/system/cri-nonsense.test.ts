/** Requests of nonsense to every method of CRI: a status of its own for each, and a daemon that goes on. */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { ImageSpec } from "../../src/cri/generated/runtime/v1/api.js";
import { type Method, METHODS } from "../../src/cri/verbs.js";
import { CriClient } from "../harness/cri.js";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const INVALID_ARGUMENT = 3;
const NOT_FOUND = 5;
const FAILED_PRECONDITION = 9;
const UNIMPLEMENTED = 12;
const UNAVAILABLE = 14;

const lacking = missing("root", "cgroup2");
let daemon: TestDaemon;
let cri: CriClient;

beforeEach(requires("root", "cgroup2"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.start();
  cri = new CriClient(daemon.criSocket);
});
afterAll(async () => {
  cri?.close();
  await daemon?.dispose();
});

const UNARY = (Object.keys(METHODS) as Method[]).filter((method) => !METHODS[method].responseStream);
/** Need nothing, or succeed for what does not exist (api.proto). */
const MAY_SUCCEED = /^(version|status|runtimeConfig|list|imageFsInfo|updateRuntimeConfig)/;
const IDEMPOTENT = /^(stop|remove)/;
const ALLOWED = [INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, UNIMPLEMENTED];

test.each(UNARY)("%s without any field is refused with a status of its own", async (method) => {
  if (MAY_SUCCEED.test(method)) return;
  expect(ALLOWED).toContain((await cri.refusal(method)).status);
});

test.each(UNARY)("%s of an id that does not exist is NOT_FOUND, or succeeds where that is the rule", async (method) => {
  if (MAY_SUCCEED.test(method)) return;
  const fields = {
    podSandboxId: "nope",
    containerId: "nope",
    cmd: ["x"],
    stdout: true,
    image: ImageSpec.fromPartial({ image: "nope.invalid/x:1" }),
    config: undefined,
  };
  const outcome = await cri.call(method, fields as never).then(
    () => "ok",
    (err: { code: number }) => err.code,
  );
  if (IDEMPOTENT.test(method)) expect(outcome).toBe("ok");
  else expect(["ok", UNAVAILABLE, ...ALLOWED]).toContain(outcome);
});

test("checkpoints are refused with a sentence", async () => {
  expect(await cri.refusal("checkpointPod", { podSandboxId: "x" })).toMatchObject({
    status: UNIMPLEMENTED,
    message: expect.stringContaining("checkpoints are not implemented"),
  });
});
