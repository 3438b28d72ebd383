/**
 * The power cut while the daemon works: one machine is killed at its work, all that it had written
 * to its disk is in a log, and the disk is made again as a cut after any of these writes leaves it.
 *
 * One boot gives any number of cuts; a boot for each would take ten seconds and show less: half of
 * the disks here have also lost what was in their cache, which SIGKILL of QEMU does not take.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ImageStore } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { inMemory } from "../harness/crash/crash-states.js";
import { smallImage, smallLayer } from "../harness/crash/images.js";
import {
  BOOT_NOUNS,
  examine,
  type Expected,
  PLATFORM,
  type ReadRecord,
  treesOf,
} from "../harness/crash/store-check.js";
import { randomOf } from "../harness/random.js";
import { applyWrites, type BlockWrite, readBlockLog, survivors } from "./machine/block-log.js";
import { bootVm, type Vm } from "./machine/boot.js";
import { CACHE, CHECKOUT, output } from "./machine/host.js";
import { requiredTool } from "./tools.js";

/** Vitest holds back what a test says until it ends. */
const progress = (text: string) => process.stderr.write(`power-cuts: ${text}\n`);
const CUTS = Number(process.env["MINKE_POWER_CUTS"] ?? 20);
/** How often more the machine is started on what the last kill left, and killed at its work. */
const KILLS = Number(process.env["MINKE_POWER_CUT_KILLS"] ?? (CUTS > 20 ? 3 : 0));
const SEED = Number(process.env["MINKE_POWER_CUT_SEED"] ?? 1);
/** Of one disk made, mounted and examined; some hundred ms on a quiet host, 13 s were seen on a busy one. */
const CUT_LIMIT_MS = 180_000;
/** How long the machine works, and longer where it has done too little by then: the host may be busy. */
const WORK_MS = Math.max(30_000, CUTS * 300);
const MIB = 1024 * 1024;
const DISK_MIB = 256;
const NOTES_MIB = 16;
const NOTES_AT = (DISK_MIB - NOTES_MIB) * MIB;
const PORT = 5055;
const FIXTURES = `${CHECKOUT}/.cache/fixtures/layout`;
const LOG = "/tmp/minke-daemon.log";
const DAEMON = "node dist/cli/main.js daemon --root /var/lib/minke/root --run /run/minke";
const BOOT = {
  name: "power-cuts",
  memoryMiB: 1536,
  lifetimeMs: 60 * 60_000,
  bootTimeoutMs: 600_000,
  // On a busy host the kernel measures the emulated TSC as wrong as by eight times, and its deadlines with it.
  append: "clocksource=hpet",
} as const;
/** Emulated on a busy host, Node.js alone takes minutes to load. */
const START_MS = 900_000;

interface Note {
  readonly word: "begin" | "done";
  readonly key: string;
  readonly value: string | null;
}

let folder: string;
let trees: Map<string, readonly string[]>;
/** What was there when the work began. */
const first = new Map<string, string>();
const disk = { base: "", now: "", log: "" };
let plan: string;

beforeAll(async () => {
  requiredTool("crictl");
  // Below the checkout, which the machine sees.
  mkdirSync(CACHE, { recursive: true });
  folder = mkdtempSync(join(CACHE, "power-cuts-"));
  const [base, one, two, three] = ["base", "one", "two", "three"].map((name) => smallLayer(name, 200_000));
  if (!base || !one || !two || !three) throw new Error("four layers were made");
  const layouts = join(folder, "layouts");
  const pulled = smallImage(layouts, `127.0.0.1:${PORT}/pulled:1`, [base, one]);
  const images = {
    pulled,
    one: smallImage(layouts, "moving.example/image:1", [base, two]),
    other: smallImage(layouts, "moving.example/image:1", [base, three]),
  };
  const golden = join(folder, "golden");
  mkdirSync(golden, { mode: 0o700 });
  const store = await ImageStore.open(new Paths(golden, `${golden}-run`), { platform: PLATFORM });
  for (const { id, repoTags } of await store.loadLayout(FIXTURES))
    for (const tag of repoTags) first.set(`image ${tag}`, id);
  for (const { layout } of Object.values(images)) await store.loadLayout(layout);
  await store.close();
  trees = treesOf(golden);
  plan = join(folder, "plan.json");
  const sockets = { api: "/run/minke/api.sock", cri: "/run/minke/cri.sock" };
  const place = { device: "/dev/vda", notesAt: NOTES_AT, notesBytes: NOTES_MIB * MIB };
  const podImage = "minke.test/busybox:1";
  writeFileSync(
    plan,
    JSON.stringify({ ...images, ...sockets, ...place, podImage, port: PORT, served: { pulled: pulled.layout } }),
  );
  for (const name of ["base", "now", "log"] as const) disk[name] = join(folder, name);
  output("truncate", ["-s", `${DISK_MIB}M`, disk.base]);
  const options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
  output("mke2fs", ["-q", "-t", "ext4", "-b", "4096", "-E", options, disk.base, `${DISK_MIB - NOTES_MIB}M`]);
  output("cp", ["--sparse=always", disk.base, disk.now]);
  writeFileSync(disk.log, "");
});
afterAll(() => {
  if (folder) rmSync(folder, { recursive: true, force: true });
});

async function startDaemon(vm: Vm): Promise<void> {
  await vm.output(
    `setsid ${DAEMON} </dev/null >${LOG} 2>&1 &
    for i in $(seq 8000); do curl -sf --unix-socket /run/minke/api.sock http://x/healthz && exit; sleep 0.1; done
    cat ${LOG}; exit 1`,
    { timeoutMs: START_MS },
  );
}

const isNote = ({ offset }: BlockWrite): boolean => offset >= NOTES_AT;

/** Has a machine work, at least `ms` and until it has done something, then cuts its power. */
async function workAndCut(vm: Vm, log: string, ms: number): Promise<void> {
  await vm.output(
    `PATH=$PATH:${CHECKOUT}/.cache/bin setsid python3 test/vm/power-cut-work.py ${plan} </dev/null >/tmp/work.log 2>&1 &`,
    { timeoutMs: START_MS },
  );
  const giveUpAt = Date.now() + 600_000;
  const isDone = () => notesIn(log, readBlockLog(log)).filter(({ note }) => note.word === "done").length > 12;
  await sleep(ms);
  while (!isDone()) {
    if (Date.now() > giveUpAt) throw new Error(`it did too little:\n${await vm.output("tail -n 20 /tmp/work.log")}`);
    await sleep(1000);
  }
  await vm.powerCut();
}

/** Every note among the writes, in their order. */
function notesIn(log: string, writes: readonly BlockWrite[]): { readonly at: number; readonly note: Note }[] {
  const bytes = readFileSync(log);
  return writes.flatMap((write, at) => {
    if (!isNote(write)) return [];
    const text = bytes.toString("utf8", write.logOffset, write.logOffset + write.length).replace(/\0+$/, "");
    return [{ at, note: JSON.parse(text) as Note }];
  });
}

/** @param before what may have been there when the machine was started */
function expectedAt(cut: number, notes: ReturnType<typeof notesIn>, before = atFirst()): Expected {
  const expected = new Map(Array.from(before, ([key, values]) => [key, new Set(values)]));
  for (const { note } of notes) if (!expected.has(note.key)) expected.set(note.key, new Set([undefined]));
  for (const { at, note } of notes) {
    if (at >= cut) break;
    if (note.word === "done") expected.set(note.key, new Set([note.value ?? undefined]));
    else expected.get(note.key)?.add(note.value ?? undefined);
  }
  return expected;
}

const atFirst = (): Expected => new Map(Array.from(first, ([key, value]) => [key, new Set([value])]));

const readRecord: ReadRecord = (noun, id, body) => {
  // Read whole, which is all that a boot's own records owe.
  if (BOOT_NOUNS.some((own) => own === noun)) return [`${noun} ${id}`, "there"];
  if (noun === "pods") return [`pods ${(body as { pod: { metadata: { name: string } } }).pod.metadata.name}`, "there"];
  const { object } = body as { object: { metadata: { name: string }; data: Record<string, string> } };
  return [`${noun} ${object.metadata.name}`, object.data["v"] ?? ""];
};

/** Mounts a disk, which replays its journal, and opens a store on it. */
async function problemsOn(file: string, expected: Expected): Promise<readonly string[]> {
  const mount = `${file}-mount`;
  mkdirSync(mount);
  output("mount", ["-o", "loop", file, mount]);
  try {
    return (await examine(join(mount, "root"), expected, trees, readRecord)).problems;
  } finally {
    output("umount", [mount]);
    rmSync(mount, { recursive: true });
  }
}

test(`${CUTS} power cuts at any write cost nothing that was promised`, {
  timeout: WORK_MS + CUTS * 30_000 + 2 * START_MS + 600_000,
}, async () => {
  const vm = await bootVm({ ...BOOT, disk: disk.now, diskLog: disk.log });
  try {
    progress("the machine runs, starting the daemon");
    await startDaemon(vm);
    progress("the daemon runs, loading images");
    const load = `curl -sf --unix-socket /run/minke/api.sock -H 'content-type: application/json' -d '{"path":"${FIXTURES}"}' http://x/minke/v1/images/load`;
    await vm.output(load, { timeoutMs: START_MS });
    progress(`it works for ${WORK_MS / 1000} s`);
    await workAndCut(vm, disk.log, WORK_MS);
  } finally {
    await vm.powerCut();
  }

  const writes = readBlockLog(disk.log);
  const notes = notesIn(disk.log, writes);
  const begun = notes[0]?.at ?? writes.length;
  const random = randomOf(SEED);
  const points = Array.from({ length: CUTS }, () => begun + Math.floor(random() * (writes.length - begun))).sort(
    (a, b) => a - b,
  );
  const scratch = mkdtempSync(join(inMemory(), "minke-power-cuts-"));
  const problems: string[] = [];
  let slowestMs = 0;
  try {
    const file = join(scratch, "disk");
    // The disk of the beginning does not keep the promises of the end: what is lost is seen.
    output("cp", ["--sparse=always", disk.base, file]);
    applyWrites(file, disk.log, writes.slice(0, begun));
    expect(await problemsOn(file, expectedAt(writes.length, notes))).not.toEqual([]);
    for (const [index, cut] of points.entries()) {
      output("cp", ["--sparse=always", disk.base, file]);
      const before = writes.slice(0, cut).filter((write) => !isNote(write));
      const losesCache = index % 2 === 1;
      applyWrites(file, disk.log, losesCache ? survivors(before, random) : before);
      const startedAt = Date.now();
      const found = await problemsOn(file, expectedAt(cut, notes));
      slowestMs = Math.max(slowestMs, Date.now() - startedAt);
      if (slowestMs > CUT_LIMIT_MS) throw new Error(`cut ${index + 1} at write ${cut} took ${slowestMs} ms`);
      if ((index + 1) % 10 === 0 || index + 1 === CUTS || found.length > 0)
        progress(
          `cut ${index + 1} of ${CUTS}, at write ${cut} of ${writes.length}: ${problems.length + found.length} problems`,
        );
      problems.push(...found.map((problem) => `cut ${cut}${losesCache ? ", cache lost" : ""}: ${problem}`));
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const flushes = writes.filter(({ isFlush }) => isFlush).length;
  progress(
    `${points.length} cuts among ${writes.length - begun} writes, ${flushes} flushes, ${notes.length} notes: ` +
      `${problems.length} problems; the slowest disk was opened and examined in ${slowestMs} ms`,
  );
  expect(problems.slice(0, 20)).toEqual([]);
});

async function wrongWith(vm: Vm, expected: Expected): Promise<unknown[]> {
  const ask = async (path: string) =>
    JSON.parse(await vm.output(`curl -sf --unix-socket /run/minke/api.sock http://x${path}`)) as { items: unknown[] };
  const images = (await ask("/minke/v1/images")).items as { id: string; repoTags: string[] }[];
  const pods = (await ask("/api/v1/namespaces/default/pods")).items as { metadata: { name: string } }[];
  const found = new Map(images.flatMap(({ id, repoTags }) => repoTags.map((tag) => [`image ${tag}`, id])));
  for (const { metadata } of pods) found.set(`pods ${metadata.name}`, "there");
  return [...expected].filter(([key, allowed]) => !key.startsWith("configmaps") && !allowed.has(found.get(key)));
}

/** Makes of the disk what a kill leaves that takes the disk's cache as well, in place of what QEMU wrote. */
function loseCache(before: string, log: string, random: () => number): readonly BlockWrite[] {
  const writes = readBlockLog(log);
  output("cp", ["--sparse=always", before, disk.now]);
  const own = writes.filter((write) => !isNote(write));
  applyWrites(disk.now, log, survivors(own, random));
  return writes;
}

test(`after the kill, and ${KILLS} more of a machine started on what the last one left, a daemon has all that was promised`, {
  timeout: (KILLS + 1) * (2 * START_MS + 60_000),
}, async () => {
  const random = randomOf(SEED + 1);
  const writes = loseCache(disk.base, disk.log, random);
  let expected = expectedAt(writes.length, notesIn(disk.log, writes));
  const before = join(folder, "before");
  for (let round = 0; ; round++) {
    const log = join(folder, `log-${round}`);
    writeFileSync(log, "");
    output("cp", ["--sparse=always", disk.now, before]);
    const vm = await bootVm({ ...BOOT, disk: disk.now, diskLog: log });
    try {
      await startDaemon(vm);
      expect(await wrongWith(vm, expected), `round ${round}`).toEqual([]);
      if (round === KILLS) break;
      await workAndCut(vm, log, 5000 + random() * 15_000);
    } finally {
      await vm.powerCut();
    }
    const writes = loseCache(before, log, random);
    expected = expectedAt(writes.length, notesIn(log, writes), expected);
    const copy = join(folder, "copy");
    output("cp", ["--sparse=always", disk.now, copy]);
    expect(await problemsOn(copy, expected), `after kill ${round + 1}`).toEqual([]);
    progress(`kill ${round + 1} of ${KILLS}: ${writes.length} writes, ${notesIn(log, writes).length} notes`);
  }
});
