/** Images as volumes of a pod, and the volumes that images declare: seen from inside. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import { ARCHITECTURE, baseLayer, file, layer, writeLayout } from "../harness/image-builder.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
let folder: string;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-image-volumes-"));
  const layout = join(folder, "layout");
  const base = baseLayer(FIXTURE_LAYOUT);
  const config = { Env: ["PATH=/bin"], Cmd: ["sh"] };
  const parts = [
    layer([
      file("dir/below", "below\n"),
      file("dir/hidden", "hidden\n"),
      file("opaque/below", "below\n"),
      file("top.txt", "top\n"),
    ]),
    layer([
      file("dir/.wh.hidden", ""),
      file("dir/above", "above\n"),
      file("opaque/.wh..wh..opq", ""),
      file("opaque/above", "above\n"),
      { path: "link", type: "symlink", target: "/dir" },
      { path: "outside", type: "symlink", target: "../../../../../../etc" },
    ]),
  ];
  const declaring = layer([
    { path: "data", type: "dir", mode: 0o750, uid: 7, gid: 8 },
    { path: "data/seed", type: "file", mode: 0o640, uid: 7, gid: 8, content: Buffer.from("seed\n") },
    { path: "data/link", type: "symlink", target: "seed" },
  ]);
  const declared = { "/data": {}, "/new/./place/": {}, "/proc/self": {}, "/mounted": {} };
  writeLayout(layout, [
    { ref: "minke.test/parts:1", architecture: ARCHITECTURE, config, layers: parts },
    {
      ref: "minke.test/declaring:1",
      architecture: ARCHITECTURE,
      config: { ...config, Volumes: declared, WorkingDir: "/work/made" },
      layers: [base, declaring],
    },
  ]);
  daemon = await TestDaemon.startWithImages();
  await daemon.expect("load", layout);
});
afterAll(async () => {
  await daemon?.dispose();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const pod = (name: string, container: string, volumes = "[]") => `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  terminationGracePeriodSeconds: 0
  volumes: ${volumes}
  containers:
  - { name: main, imagePullPolicy: Never, command: [sleep, "1000"], ${container} }
`;

const inPod = (name: string, script: string) => daemon.expect("exec", name, "--", "sh", "-c", script);

test("an image volume shows the image, whole or a part of it, and nothing of it is left", async () => {
  const before = daemon.snapshot();
  const mounts = [
    "{ name: parts, mountPath: /whole }",
    "{ name: parts, mountPath: /dir, subPath: dir }",
    "{ name: parts, mountPath: /link, subPath: link }",
    "{ name: parts, mountPath: /opaque, subPath: opaque }",
    "{ name: parts, mountPath: /file, subPath: top.txt }",
  ];
  await daemon.runPod(
    pod(
      "whole",
      `image: "minke.test/busybox:1", volumeMounts: [${mounts.join(", ")}]`,
      `[{ name: parts, image: { reference: "minke.test/parts:1", pullPolicy: Never } }]`,
    ),
  );
  expect(await inPod("whole", "ls /whole /whole/dir /opaque; cat /file")).toBe(
    "/opaque:\nabove\n\n/whole:\ndir\nlink\nopaque\noutside\ntop.txt\n\n/whole/dir:\nabove\nbelow\ntop\n",
  );
  expect(await inPod("whole", "ls /dir; ls /link")).toBe("above\nbelow\nabove\nbelow\n");
  for (const path of ["/whole/x", "/dir/x", "/file"]) {
    const { code, stderr } = await daemon.minke(["exec", "whole", "--", "sh", "-c", `echo > ${path}`]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("Read-only file system")]);
  }
  await daemon.expect("delete", "pod", "whole");
  await daemon.expectNothingLeft(before);
});

test.each([
  ["dir/none", "CreateContainerError", "dir/none"],
  ["outside", "CreateContainerError", "outside"],
])("a subPath %s that the image does not have is %s", async (subPath, reason, named) => {
  const name = `missing-${subPath.replace("/", "-")}`;
  const manifest = pod(
    name,
    `image: "minke.test/busybox:1", volumeMounts: [{ name: parts, mountPath: /m, subPath: ${subPath} }]`,
    `[{ name: parts, image: { reference: "minke.test/parts:1" } }]`,
  );
  await daemon.minke(["run", "-f", "-"], { input: manifest });
  await expect
    .poll(async () => (await daemon.container(name, "main")).state.waiting?.reason, { timeout: 20_000 })
    .toBe(reason);
  expect(await daemon.expect("describe", "pod", name)).toContain(named);
  await daemon.expect("delete", "pod", name);
});

test("an image volume that must not be pulled and is not there is ErrImageNeverPull, by its volume's name", async () => {
  const manifest = pod(
    "absent",
    `image: "minke.test/busybox:1", volumeMounts: [{ name: gone, mountPath: /m }]`,
    `[{ name: gone, image: { reference: "minke.test/none:1", pullPolicy: Never } }]`,
  );
  await daemon.minke(["run", "-f", "-"], { input: manifest });
  await expect
    .poll(async () => (await daemon.container("absent", "main")).state.waiting?.reason, { timeout: 20_000 })
    .toBe("ErrImageNeverPull");
  expect(await daemon.expect("describe", "pod", "absent")).toContain('"gone"');
  await daemon.expect("delete", "pod", "absent");
});

test("a volume that the image declares holds what the image has there, and goes with the container", async () => {
  const before = daemon.snapshot();
  await daemon.runPod(
    pod(
      "declared",
      `image: "minke.test/declaring:1", securityContext: { readOnlyRootFilesystem: true }, volumeMounts: [{ name: own, mountPath: /mounted }]`,
      "[{ name: own, emptyDir: {} }]",
    ),
  );
  expect(await inPod("declared", "stat -c '%a %u %g %n' /data /data/seed; cat /data/link; pwd")).toBe(
    "750 7 8 /data\n640 7 8 /data/seed\nseed\n/work/made\n",
  );
  // On the host's file system, and writable although the rootfs is not.
  expect(
    await inPod(
      "declared",
      "grep -c ' overlay ' /proc/mounts; echo x > /data/new && echo y > /new/place/new && cat /data/new /new/place/new",
    ),
  ).toBe("1\nx\ny\n");
  const inRootfs = await daemon.minke(["exec", "declared", "--", "touch", "/x"]);
  expect(inRootfs.stderr).toContain("Read-only file system");
  const [id = ""] = readdirSync(join(daemon.root, "containers"));
  expect(readdirSync(join(daemon.root, "containers", id, "volumes"))).toEqual(["0", "1"]);
  await daemon.expect("delete", "pod", "declared");
  await daemon.expectNothingLeft(before);
});
