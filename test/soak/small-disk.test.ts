/**
 * A real daemon on a small disk: what `minke df` says of every byte beside what du and the file
 * system say, and the collection of images when the disk fills up.
 */
import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { CriClient } from "../harness/cri.js";
import { FIXTURE_LAYOUT, TestDaemon } from "../harness/daemon.js";
import { pushLayout, type Registry, startRegistry } from "../harness/registry.js";
import { missing, requires } from "../harness/requires.js";
import { SmallDisk } from "../harness/small-disk.js";

const NEEDS = ["root", "cgroup2", "overlayfs", "registry"] as const;
const lacking = missing(...NEEDS);
const BUSYBOX = "minke.test/busybox:1";
const NGINX = "minke.test/nginx:1";
const PROBE = "minke.test/probe:1";

/** What the file system takes and du cannot see, as of a file that is open and has no name: a block was seen. */
const UNSEEN_BYTES = 16 * 1024;

let disk: SmallDisk | undefined;
let whyNot = "";
let registry: Registry;
let throughCri: string;
let daemon: TestDaemon;
/** Of the empty file system: what its own tables take. */
let overheadBytes: number;

interface Usage {
  readonly totalBytes: number;
  readonly fileSystem: { readonly sizeBytes: number; readonly freeBytes: number };
  readonly parts: readonly {
    readonly part: string;
    readonly bytes: number;
    readonly items: readonly { name: string }[];
  }[];
}

const onDisk = (): SmallDisk => {
  if (!disk) throw new Error(whyNot);
  return disk;
};

beforeEach(requires(...NEEDS));
beforeEach(({ skip }) => {
  if (!disk) skip(`missing: ${whyNot}`);
});
beforeAll(async () => {
  if (lacking) return;
  disk = SmallDisk.make(96 * 1024 * 1024, (reason) => (whyNot = reason));
  if (!disk) return;
  overheadBytes = usedBytes() - du(disk.path);
  registry = await startRegistry();
  const refs = await pushLayout(registry, FIXTURE_LAYOUT);
  throughCri = refs.find((ref) => ref.includes("/probe:")) ?? "";
  daemon = await TestDaemon.start({
    folder: disk.path,
    network: "10.187",
    tables: `
[images.collection]
high-percent = 80
low-percent = 79
min-unused-ms = 0
interval-ms = 1000
pinned = ["${PROBE}"]
`,
  });
}, 120_000);
afterAll(async () => {
  if (!disk) return;
  disk.free();
  await daemon?.dispose();
  await registry?.close();
  disk.remove();
}, 120_000);

const du = (path: string): number =>
  Number(execFileSync("du", ["-sx", "-B1", path], { encoding: "utf8" }).split("\t")[0]);

function usedBytes(): number {
  execFileSync("sync", ["-f", onDisk().path]);
  const { blocks, bfree, bsize } = statfsSync(onDisk().path);
  return (blocks - bfree) * bsize;
}

const df = async (): Promise<Usage> => JSON.parse(await daemon.expect("df", "-o", "json")) as Usage;

/** Polled: the daemon writes records and logs beside. */
async function expectExplained(): Promise<void> {
  const unexplained = async () => {
    const usage = await df();
    const sum = usage.parts.reduce((bytes, part) => bytes + part.bytes, 0);
    const besides = du(onDisk().path) - du(daemon.root);
    const unseen = usedBytes() - overheadBytes - besides - sum;
    return [usage.totalBytes - du(daemon.root), sum - usage.totalBytes, Math.abs(unseen) <= UNSEEN_BYTES ? 0 : unseen];
  };
  await expect.poll(unexplained, { timeout: 30_000 }).toEqual([0, 0, 0]);
}

const namesOf = (usage: Usage, part: string): string[] =>
  usage.parts.find((one) => one.part === part)?.items.map(({ name }) => name) ?? [];

test("df explains every byte that the file system has given away", { timeout: 180_000 }, async () => {
  await expectExplained();
  await daemon.expect("load", FIXTURE_LAYOUT);
  await expectExplained();
  await daemon.runPod(`
apiVersion: v1
kind: Pod
metadata: { name: writer }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: "${BUSYBOX}", command: [sh, -c, "head -c 300000 /dev/zero >/file; touch /ready; sleep 1000"], readinessProbe: { exec: { command: [cat, /ready] }, periodSeconds: 1 } }]
`);
  await expectExplained();
  expect(namesOf(await df(), "writable layers")).toHaveLength(1);
  // A pull that is cut off: what it left is swept at the start, and nothing is unexplained.
  await daemon.kill9();
  await daemon.start({ MINKE_FAILPOINTS: "after unpack layer=kill" });
  await daemon.minke(["pull", throughCri.replace("/probe:", "/nginx:")]);
  await daemon.ended();
  await daemon.start({ MINKE_FAILPOINTS: "" });
  await expectExplained();
  const orphans = [`containers/${"d".repeat(64)}`, "volumes/gone", "tmp/layer-half"];
  for (const orphan of orphans) {
    mkdirSync(join(daemon.root, orphan), { recursive: true });
    writeFileSync(join(daemon.root, orphan, "file"), Buffer.alloc(50_000, "x"));
  }
  await expectExplained();
  const usage = await df();
  expect([...namesOf(usage, "orphans"), ...namesOf(usage, "partial pulls")].sort()).toEqual(orphans.sort());
  for (const orphan of orphans) execFileSync("rm", ["-r", join(daemon.root, orphan)]);
});

test("df answers while images come and go", { timeout: 180_000 }, async () => {
  const work = { isOver: false };
  const answers: Usage[] = [];
  const asking = (async () => {
    while (!work.isOver) answers.push(await df());
  })();
  try {
    for (let round = 0; round < 3; round++) {
      await daemon.expect("load", FIXTURE_LAYOUT);
      await daemon.expect("image", "rm", NGINX);
    }
  } finally {
    work.isOver = true;
  }
  await asking;
  expect(answers.length).toBeGreaterThan(1);
  for (const { totalBytes, parts } of answers)
    expect(parts.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(totalBytes);
  await expectExplained();
});

test("a disk above the threshold loses the image that nobody needs, and no other", { timeout: 180_000 }, async () => {
  const cri = new CriClient(daemon.criSocket);
  try {
    await cri.call("pullImage", {
      image: {
        image: throughCri.replace("/probe:", "/busybox:"),
        userSpecifiedImage: "",
        annotations: {},
        runtimeHandler: "",
        imageRef: "",
      },
    });
    await daemon.expect("load", FIXTURE_LAYOUT);
    const tags = async () =>
      (JSON.parse(await daemon.expect("image", "ls", "-o", "json")) as { items: { repoTags: string[] }[] }).items
        .flatMap(({ repoTags }) => repoTags)
        .sort();
    expect(await tags()).toEqual(expect.arrayContaining([BUSYBOX, NGINX, PROBE]));
    // 82 of 100 are in use; without nginx less than 79.
    const { blocks } = statfsSync(onDisk().path);
    onDisk().fill(Math.floor(blocks * 0.18));
    await expect.poll(tags, { timeout: 60_000 }).not.toContain(NGINX);
    // It is full again: what is needed, pinned or CRI's stays.
    onDisk().free();
    onDisk().fill(1000);
    const passes = () => promisify(execFile)("sleep", ["3"]);
    await passes();
    expect(await tags()).toEqual([BUSYBOX, PROBE, throughCri.replace("/probe:", "/busybox:")].sort());
  } finally {
    cri.close();
  }
});
