/** Images of as many layers as overlayfs takes. Not scaled: one less would show nothing. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import { ARCHITECTURE, baseLayer, file, type Layer, layer, writeLayout } from "../harness/image-builder.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
const MOST_LAYERS = 500;
let daemon: TestDaemon;
let folder: string;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  folder = mkdtempSync(join(tmpdir(), "minke-many-layers-"));
  daemon = await TestDaemon.start();
});
afterAll(async () => {
  await daemon?.dispose();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

function writeImage(name: string, layers: readonly Layer[]): string {
  const layout = join(folder, name);
  writeLayout(layout, [
    { ref: `minke.test/${name}:1`, architecture: ARCHITECTURE, config: { Env: ["PATH=/bin"] }, layers },
  ]);
  return layout;
}

test(`an image of ${MOST_LAYERS} layers runs, and is mounted`, async () => {
  const own = Array.from({ length: MOST_LAYERS - 1 }, (_, i) =>
    layer([file(`own/${i}`, `${i}\n`), file("shared", `${i}\n`)]),
  );
  await daemon.expect("load", writeImage("many", [baseLayer(FIXTURE_LAYOUT), ...own]));
  await daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: many }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: many, image: { reference: "minke.test/many:1" } }]
  containers:
  - name: main
    image: minke.test/many:1
    command: [sleep, "1000"]
    volumeMounts: [{ name: many, mountPath: /many }]
`);
  const last = MOST_LAYERS - 2;
  for (const root of ["", "/many"]) {
    const script = `ls ${root}/own | wc -l; cat ${root}/shared ${root}/own/0 ${root}/own/${last}`;
    expect(await daemon.expect("exec", "many", "--", "sh", "-c", script)).toBe(
      `${MOST_LAYERS - 1}\n${last}\n0\n${last}\n`,
    );
  }
  await daemon.expect("delete", "pod", "many");
  expect(daemon.log).not.toContain("MaxListenersExceededWarning");
});

test("an image of one layer more is refused, and says how many are allowed", async () => {
  const layers = Array.from({ length: MOST_LAYERS + 1 }, () => layer([file("x", "x")]));
  const { code, stderr } = await daemon.minke(["load", writeImage("too-many", layers)]);
  expect(code).toBe(1);
  expect(stderr).toContain(`${MOST_LAYERS}`);
});
