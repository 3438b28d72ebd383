/**
 * The monitor's logs: CRI records, rotation, reopening, a full disk, and what a flood costs. Needs root.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { logText, MonitorBench, anonymousKib, until } from "../harness/monitor.js";
import { requires } from "../harness/requires.js";

let bench: MonitorBench;
beforeEach(async (context) => {
  requires("root", "cgroup2")(context);
  bench = await MonitorBench.start();
});
afterEach(async () => {
  await bench?.stop();
});

function expectedSeq(last: number): string {
  return Array.from({ length: last }, (_, index) => `${index + 1}\n`).join("");
}

/** Oldest first. */
function rotated(path: string): string[] {
  const older = Array.from({ length: 50 }, (_, index) => `${path}.${50 - index}`).filter((name) => existsSync(name));
  return [...older, path];
}

describe("a log record", () => {
  test("has the time in nanoseconds, the stream, and the line", async () => {
    const { params } = await bench.run(["/bin/sh", "-c", "echo out"]);
    expect(readFileSync(params.logPath ?? "", "utf8")).toMatch(
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout F out\n$/,
    );
    expect(statSync(params.logPath ?? "").mode & 0o777).toBe(0o640);
  });

  test("of a line longer than 16 KiB is several, all but the last partial", async () => {
    const { params } = await bench.run(["/bin/sh", "-c", "head -c 40000 /bin/busybox | tr -c x y; echo"]);
    const records = readFileSync(params.logPath ?? "", "utf8")
      .split("\n")
      .slice(0, -1);
    expect(records.map((record) => record.split(" ")[2])).toEqual(["P", "P", "F"]);
    expect(records.map((record) => record.length - (records[0]?.indexOf(" P ") ?? 0) - 3)).toEqual([
      16384, 16384, 7232,
    ]);
  });

  test("is written though the last line has no end", async () => {
    const { params } = await bench.run(["/bin/sh", "-c", "printf 'no end'"]);
    expect(logText(params.logPath ?? "")).toBe("no end\n");
  });

  test("comes from a user without privileges that opens /proc/self/fd/1 by name", async () => {
    const params = bench.prepare(["/bin/sh", "-c", "echo named > /proc/self/fd/1"], {}, 1000);
    await bench.client.start(params);
    expect(await bench.exitOf(params.containerId)).toMatchObject({ exitCode: 0 });
    expect(logText(params.logPath ?? "")).toBe("named\n");
  });

  test("is added to what the file holds", async () => {
    const path = `${bench.dir}/kept.log`;
    writeFileSync(path, "2026-01-01T00:00:00.000000000Z stdout F before\n");
    await bench.run(["/bin/echo", "after"], { logPath: path });
    expect(logText(path)).toBe("before\nafter\n");
  });
});

describe("rotation", () => {
  test("cuts between lines, keeps so many files and loses no line between them", async () => {
    const { params } = await bench.run(["/bin/seq", "1", "20000"], { logMaxBytes: 50_000, logMaxFiles: 4 });
    const files = rotated(params.logPath ?? "");
    expect(files).toHaveLength(4);
    for (const file of files) expect(statSync(file).size).toBeLessThanOrEqual(50_000);
    const kept = files.map((file) => logText(file)).join("");
    expect(expectedSeq(20_000).endsWith(kept)).toBe(true);
    expect(kept.length).toBeGreaterThan(5_000);
  });

  test("with enough files loses and doubles nothing", async () => {
    const { params } = await bench.run(["/bin/seq", "1", "20000"], { logMaxBytes: 50_000, logMaxFiles: 50 });
    expect(
      rotated(params.logPath ?? "")
        .map((file) => logText(file))
        .join(""),
    ).toBe(expectedSeq(20_000));
  });

  test("with one file begins it anew", async () => {
    const { params } = await bench.run(["/bin/seq", "1", "20000"], { logMaxBytes: 50_000, logMaxFiles: 1 });
    expect(rotated(params.logPath ?? "")).toHaveLength(1);
    expect(expectedSeq(20_000).endsWith(logText(params.logPath ?? ""))).toBe(true);
  });
});

describe("reopenLog", () => {
  test("goes on in a new file and loses no line", async () => {
    const params = await bench.start(["/bin/sh", "-c", "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; done"]);
    const path = params.logPath ?? "";
    await until(() => logText(path).length > 0);
    renameSync(path, `${path}.moved`);
    await bench.client.reopenLog({ containerId: params.containerId }).catch(() => writeFileSync(path, ""));
    await bench.exitOf(params.containerId);
    expect(logText(`${path}.moved`) + logText(path)).toBe(expectedSeq(2000));
  });

  test("works while the container is stopping", async () => {
    const params = await bench.start(["/bin/sh", "-c", "trap '' TERM; echo a; while :; do sleep 0.05; done"]);
    await until(() => logText(params.logPath ?? "") === "a\n");
    await bench.client.stop({ containerId: params.containerId, signal: 15, graceMs: 60_000 });
    renameSync(params.logPath ?? "", `${params.logPath}.moved`);
    await bench.client.reopenLog({ containerId: params.containerId });
    expect(existsSync(params.logPath ?? "")).toBe(true);
  });
});

describe("a full disk", () => {
  let disk: string;
  beforeEach(() => {
    disk = `${bench.dir}/disk`;
    mkdirSync(disk);
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]).status).toBe(0);
  });
  afterEach(() => {
    spawnSync("umount", ["-l", disk]);
  });

  test("drops whole records, does not hold the container up, and says how many when space is back", async () => {
    const path = `${disk}/0.log`;
    const filler = `${disk}/filler`;
    writeFileSync(filler, Buffer.alloc(200_000));
    const params = await bench.start(["/bin/sh", "-c", "read x; seq 1 20000; read x; echo last"], {
      logPath: path,
      stdin: true,
    });
    const { containerId } = params;
    const stream = await bench.client.openStream({ containerId });
    stream.stdout.resume();
    stream.stdin?.write("\n");
    await until(() => statSync(path).size > 20_000);
    await sleep(200);
    expect((await bench.client.list()).containers).toMatchObject([{ state: "running" }]);
    const before = logText(path);
    expect(expectedSeq(20_000).startsWith(before)).toBe(true);
    rmSync(filler);
    await until(() => readFileSync(path, "utf8").includes("were lost: ENOSPC"));
    stream.stdin?.write("\n");
    expect(await bench.exitOf(containerId)).toMatchObject({ exitCode: 0 });
    const lost = 20_000 - before.split("\n").length + 1;
    const [, note, ...rest] = readFileSync(path, "utf8").split(/(minke: .*)\n/);
    expect(note).toMatch(new RegExp(`^minke: ${lost} log records with \\d+ bytes were lost: ENOSPC$`));
    expect(rest.join("")).toMatch(/ stdout F last\n$/);
  });

  test("keeps an exit file back only until there is space", async () => {
    const filler = `${disk}/filler`;
    const params = await bench.start(["/bin/sh", "-c", "read x; exit 3"], {
      exitFile: `${disk}/exit.json`,
      logPath: null,
      stdin: true,
    });
    spawnSync("dd", ["if=/dev/zero", `of=${filler}`, "bs=4k"]);
    const stream = await bench.client.openStream({ containerId: params.containerId });
    stream.stdin?.write("\n");
    expect(await bench.exitOf(params.containerId)).toMatchObject({ exitCode: 3 });
    expect(existsSync(params.exitFile)).toBe(false);
    rmSync(filler);
    await until(() => existsSync(params.exitFile));
    expect(JSON.parse(readFileSync(params.exitFile, "utf8"))).toMatchObject({ exitCode: 3 });
  });
});

describe("the monitor's memory", () => {
  test("that is its own is at most 128 KiB with one container, before and after a flood", async () => {
    await bench.start(["/bin/sleep", "1000"]);
    const pid = bench.child.pid as number;
    expect(anonymousKib(pid)).toBeLessThanOrEqual(128);
    await bench.run(
      ["/bin/sh", "-c", "yes 'a line of a flood that is about as long as log lines are' | head -c 20000000"],
      {
        logMaxBytes: 1_000_000,
        logMaxFiles: 2,
      },
    );
    await until(() => anonymousKib(pid) <= 128);
  });
});
