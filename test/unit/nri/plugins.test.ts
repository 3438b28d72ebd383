/** How long plugins may take, and what waits for them meanwhile. */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createLog } from "../../../src/base/log.js";
import { newSandboxId } from "../../../src/base/ids.js";
import { toSandboxConfig } from "../../../src/cri/convert/sandbox-config.js";
import { PodSandboxConfig } from "../../../src/cri/generated/runtime/v1/api.js";
import { Plugins } from "../../../src/nri/plugins.js";
import type { SandboxRecord } from "../../../src/state/sandbox.js";
import { NriPlugin } from "../../harness/nri-plugin.js";

const REQUEST_TIMEOUT_MS = 1_000;

let folder: string;
let server: Server;
let plugins: Plugins;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "minke-nri-plugins-"));
  plugins = new Plugins(
    {
      configDir: folder,
      registrationTimeoutMs: 30_000,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      runtimeVersion: "0",
      log: createLog("silent"),
    },
    { list: async () => ({ sandboxes: [], containers: [] }), update: async () => {}, evict: async () => {} },
  );
  server = createServer((socket) => void plugins.accept(socket));
  await new Promise<void>((resolve) => server.listen(join(folder, "s"), resolve));
});
afterEach(() => {
  plugins.close();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

function sandbox(): SandboxRecord {
  const metadata = { name: "a", uid: "a", namespace: "a", attempt: 0 };
  const config = toSandboxConfig(PodSandboxConfig.fromPartial({ metadata }), "");
  return { id: newSandboxId(), bootId: "", config, state: "ready", createdAtNs: "0", cgroupPath: "/a" };
}

test("a plugin may take longer to synchronize than to answer a request, and what happens meanwhile waits", async () => {
  const one = await NriPlugin.connect(join(folder, "s"), {
    methods: { Synchronize: () => sleep(REQUEST_TIMEOUT_MS + 300).then(() => undefined) },
  });
  await plugins.sandboxEvent("RunPodSandbox", sandbox());
  expect(one.heard).toEqual(["RunPodSandbox"]);
  expect(plugins.plugins).toEqual(["10-test"]);
  one.close();
});
