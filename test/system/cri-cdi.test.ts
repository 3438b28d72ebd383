/** CDI devices over CRI, against the whole daemon: what the files of its directories say is what containers get. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { NamespaceMode } from "../../src/cri/generated/runtime/v1/api.js";
import { useCriDaemon } from "../harness/cri-bench.js";
import { isAlive } from "../harness/processes.js";
import { requires } from "../harness/requires.js";

const FAILED_PRECONDITION = 9;
const INVALID_ARGUMENT = 3;

/** Its folders are in the daemon's settings. */
const folder = mkdtempSync(join(tmpdir(), "minke-cdi-test-"));
const bench = useCriDaemon({ tables: `[cdi]\nspec-dirs = ["${folder}/low", "${folder}/none", "${folder}/high"]\n` });
let cri: typeof bench.cri;
let sandbox = "";

afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(async () => {
  cri = bench.cri;
  for (const dir of ["low", "high"]) mkdirSync(join(folder, dir));
  sandbox = await bench.sandbox();
});
afterEach(() => {
  for (const dir of ["low", "high"]) rmSync(join(folder, dir), { recursive: true, force: true });
});

const put = (name: string, text: string | object) =>
  writeFileSync(join(folder, name), typeof text === "string" ? text : JSON.stringify(text));

const edits = (value: string) => ({
  cdiVersion: "0.6.0",
  kind: "vendor.example/dev",
  devices: [{ name: "0", containerEdits: { env: [`WHICH=${value}`] } }],
});

const asks = (...names: string[]) => ({ CDIDevices: names.map((name) => ({ name })) });

async function refusal(...names: string[]) {
  try {
    return await cri.createContainer(sandbox, asks(...names));
  } catch (err) {
    const { code, details, metadata } = err as {
      code: number;
      details: string;
      metadata: { get(key: string): unknown[] };
    };
    return { status: code, code: metadata.get("minke-code")[0], details };
  }
}

test("a container gets nodes, variables, mounts, groups and hooks of its devices, those of the file once", async () => {
  writeFileSync(join(folder, "library"), "lib");
  put(
    "low/vendor.yaml",
    `cdiVersion: "0.8.0"
kind: vendor.example/null
containerEdits:
  env: ["ALL=1"]
  additionalGids: [4242]
  hooks:
    - { hookName: createRuntime, path: /bin/sh, args: [sh, -c, "echo hook >>${folder}/hooks"] }
devices:
  - name: "0"
    containerEdits:
      env: ["FIRST=yes"]
      deviceNodes: [{ path: /dev/nil, hostPath: /dev/null, permissions: rw, fileMode: 438 }]
  - name: lib
    containerEdits:
      mounts: [{ hostPath: ${folder}/library, containerPath: /usr/lib/vendor, options: [ro, nosuid] }]
`,
  );
  const container = await cri.startContainer(sandbox, {
    ...asks("vendor.example/null=0", "vendor.example/null=lib", "vendor.example/null=0"),
    linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
  });
  expect(await cri.output(container, "sh", "-c", "echo x >/dev/nil; stat -c %t:%T:%a /dev/nil")).toBe("1:3:666\n");
  expect(await cri.output(container, "sh", "-c", "echo $ALL $FIRST; cat /usr/lib/vendor; id -G")).toBe(
    "1 yes\nlib0 4242\n",
  );
  expect(readFileSync(join(folder, "hooks"), "utf8")).toBe("hook\n");
});

test("while a hook of one container runs, others of its sandbox start, answer and end; a stop ends the hook", async () => {
  put("low/slow.json", {
    cdiVersion: "0.6.0",
    kind: "vendor.example/slow",
    devices: [
      {
        name: "0",
        containerEdits: {
          hooks: [
            {
              hookName: "createRuntime",
              path: "/bin/sh",
              args: ["sh", "-c", `echo $$ >${folder}/pid; exec sleep 4713`],
            },
          ],
        },
      },
    ],
  });
  const other = await cri.startContainer(sandbox);
  const slow = await cri.createContainer(sandbox, asks("vendor.example/slow=0"));
  const start = cri.refusal("startContainer", { containerId: slow });
  const hookPid = () => (existsSync(join(folder, "pid")) ? Number(readFileSync(join(folder, "pid"), "utf8")) : 0);
  await expect.poll(hookPid).toBeGreaterThan(0);
  expect(await cri.output(other, "echo", "on")).toBe("on\n");
  await cri.startContainer(sandbox);
  await cri.call("stopContainer", { containerId: other, timeout: 0n });
  process.kill(hookPid(), 0);
  await cri.removeSandbox(sandbox);
  expect((await start).message).toContain("ended before its command was executed");
  await expect.poll(() => isAlive(hookPid())).toBe(false);
});

test("a hook that fails says so, and its container never runs", async () => {
  put("low/bad.json", {
    cdiVersion: "0.6.0",
    kind: "vendor.example/bad",
    devices: [
      {
        name: "0",
        containerEdits: { hooks: [{ hookName: "createRuntime", path: "/bin/sh", args: ["sh", "-c", "exit 7"] }] },
      },
    ],
  });
  const containerId = await cri.createContainer(sandbox, asks("vendor.example/bad=0"));
  expect(await cri.refusal("startContainer", { containerId })).toMatchObject({
    status: 9,
    code: "HOOK_FAILED",
    message: expect.stringContaining('hook createRuntime "/bin/sh": ended with status 7'),
  });
});

test("in a user namespace a node is the host's own, by its path there", async (context) => {
  requires("userns")(context);
  put("low/a.json", {
    cdiVersion: "0.6.0",
    kind: "vendor.example/dev",
    devices: [{ name: "0", containerEdits: { deviceNodes: [{ path: "/dev/mine/zero", hostPath: "/dev/zero" }] } }],
  });
  const range = { hostId: 300_000, containerId: 0, length: 65_536 };
  const namespaceOptions = { usernsOptions: { mode: NamespaceMode.POD, uids: [range], gids: [range] } };
  const mapped = await bench.sandbox({ linux: { securityContext: { namespaceOptions } } });
  const container = await cri.startContainer(mapped, asks("vendor.example/dev=0"));
  expect(await cri.output(container, "stat", "-c", "%F %t:%T", "/dev/mine/zero")).toBe("character special file 1:5\n");
  expect(await cri.output(container, "sh", "-c", "head -c 3 /dev/mine/zero | od -An -tx1")).toBe(" 00 00 00\n");
});

test("the later directory wins, and changes of the files count at once", async () => {
  put("low/a.json", edits("low"));
  put("high/a.json", edits("high"));
  const which = async () =>
    cri.output(await cri.startContainer(sandbox, asks("vendor.example/dev=0")), "sh", "-c", "echo $WHICH");
  expect(await which()).toBe("high\n");
  rmSync(join(folder, "high/a.json"));
  expect(await which()).toBe("low\n");
});

test("an unknown device, or one that two files define, is refused; a broken file is named", async () => {
  put("low/broken.json", "{");
  put("low/a.json", edits("a"));
  expect(await refusal("vendor.example/dev=1")).toMatchObject({
    status: FAILED_PRECONDITION,
    code: "CDI_DEVICE_NOT_FOUND",
    details: expect.stringContaining("low/broken.json"),
  });
  put("low/b.json", edits("b"));
  expect(await refusal("vendor.example/dev=0")).toMatchObject({
    status: FAILED_PRECONDITION,
    code: "CDI_SPEC_INVALID",
  });
  expect(await refusal("no name")).toMatchObject({ status: INVALID_ARGUMENT, code: "INVALID_FIELD" });
});

test("a node that the host lacks is refused", async () => {
  const node = { deviceNodes: [{ path: "/dev/minke-none" }] };
  put("low/a.json", { ...edits("a"), devices: [{ name: "0", containerEdits: node }] });
  expect(await refusal("vendor.example/dev=0")).toMatchObject({ details: expect.stringContaining("minke-none") });
});
