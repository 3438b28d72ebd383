/** What minke-oci says to what cannot be: a clear sentence, status 1, and nothing left behind. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { PROJECT } from "../harness/cli.js";
import { MINKE_OCI, OciBundle } from "../harness/oci-bundle.js";
import { missing, requires } from "../harness/requires.js";

const here = new OciBundle("bad");
const { folder, path: bundle, state: root } = here;
const oci = here.oci.bind(here);
const configure = here.configure.bind(here);
const id = here.id.bind(here);
const lacking = missing("root", "cgroup2");

beforeEach(requires("root", "cgroup2"));
beforeAll(() => {
  if (lacking) return;
  here.fill();
  const compiled = spawnSync("gcc", ["-O1", "-o", join(folder, "enosys"), `${PROJECT}test/native/enosys.c`]);
  expect(compiled.status, String(compiled.stderr)).toBe(0);
});
beforeEach(() => {
  if (!lacking) configure(["sleep", "600"]);
});
afterEach(() => {
  if (lacking) return;
  here.removeContainers();
  expect(here.ids(), "records left").toEqual([]);
  expect(cgroupsLeft(), "cgroups left").toEqual([]);
});
afterAll(() => here.dispose());

const runProgram = (program: string, args: string[]) => here.call(program, ...args);

function cgroupsLeft(): string[] {
  const below = ["/sys/fs/cgroup/minke-oci", "/sys/fs/cgroup/unified/minke-oci"].filter(existsSync);
  return below.flatMap((path) => readdirSync(path).filter((name) => name.startsWith(id(""))));
}

const startSleeper = (name: string) =>
  expect(oci("run", "--detach", "--bundle", bundle, id(name))).toEqual({ status: 0, output: "" });

test("a bundle that does not exist is named", () => {
  expect(oci("run", "--bundle", join(folder, "nowhere"), id("a"))).toEqual({
    status: 1,
    output: `minke-oci: bundle "${join(folder, "nowhere")}": realpath: ENOENT\n`,
  });
});

test("a rootfs that does not exist is named", () => {
  configure(["true"], (config) => {
    config.root = { path: "missing" };
  });
  const { status, output } = oci("run", "--bundle", bundle, id("a"));
  expect(output).toBe(`minke-oci: open root.path "${bundle}/missing": open_tree: ENOENT\n`);
  expect(status).toBe(1);
});

test.each([
  ["not JSON", "{"],
  ["a list", "[]"],
  ["cut within a character", '{"a\xf3\x9d'],
  ["nested deeply", "[".repeat(100_000)],
  ["9 MiB", `{"a":"${"x".repeat(9 << 20)}"}`],
])("a config.json that is %s is refused", (_what, text) => {
  const kept = readFileSync(join(bundle, "config.json"));
  writeFileSync(join(bundle, "config.json"), text, "latin1");
  const { status, output } = oci("run", "--bundle", bundle, id("a"));
  writeFileSync(join(bundle, "config.json"), kept);
  expect(output).toMatch(/^minke-oci: (config\.json is |read ".*config\.json": .*EFBIG)/);
  expect(status).toBe(1);
});

test.each(["a/b", "../x", "..", "", "a b", "x".repeat(300)])("the id %j is refused", (name) => {
  const { status, output } = oci("create", "--bundle", bundle, name);
  expect(output).toBe(`minke-oci: invalid container id "${name}"\n`);
  expect(status).toBe(1);
});

test("an id that is taken is refused, and its container lives on", () => {
  startSleeper("twice");
  expect(oci("create", "--bundle", bundle, id("twice"))).toEqual({
    status: 1,
    output: `minke-oci: container "${id("twice")}" exists already\n`,
  });
  expect(JSON.parse(oci("state", id("twice")).output)).toMatchObject({ status: "running" });
});

test("a record whose pid belongs to another process is of a stopped container", () => {
  startSleeper("reused");
  const file = join(root, id("reused"), "record.json");
  const record = JSON.parse(readFileSync(file, "utf8"));
  oci("kill", id("reused"), "KILL");
  writeFileSync(file, JSON.stringify({ ...record, pid: process.pid }));
  expect(JSON.parse(oci("state", id("reused")).output)).toMatchObject({ status: "stopped", pid: 0 });
  expect(oci("kill", id("reused"), "KILL")).toEqual({
    status: 1,
    output: `minke-oci: kill container "${id("reused")}": it is not running\n`,
  });
  expect(oci("delete", id("reused")).status).toBe(0);
});

test("a container whose record cannot be read is listed as stopped and can be deleted", () => {
  mkdirSync(join(root, id("half")), { recursive: true });
  writeFileSync(join(root, id("half"), "record.json"), "{");
  expect(oci("list").output).toMatch(new RegExp(`${id("half")}\\s+0\\s+stopped`));
  expect(oci("delete", id("half"))).toEqual({ status: 0, output: "" });
});

test("exec in a paused container is refused", () => {
  startSleeper("paused");
  expect(oci("pause", id("paused")).status).toBe(0);
  expect(oci("exec", id("paused"), "true")).toEqual({
    status: 255,
    output: `minke-oci: exec in container "${id("paused")}": it is paused\n`,
  });
  expect(oci("resume", id("paused")).status).toBe(0);
});

test("no space for the record is said, and nothing is left", () => {
  const full = join(folder, "full");
  mkdirSync(full);
  expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", full]).status).toBe(0);
  writeFileSync(join(full, "filler"), "x");
  const { status, output } = runProgram(MINKE_OCI, ["--root", full, "run", "--bundle", bundle, id("full")]);
  expect(spawnSync("umount", [full]).status).toBe(0);
  expect(output).toBe(`minke-oci: make "${full}/${id("full")}": mkdir: ENOSPC\n`);
  expect(status).toBe(1);
});

// Numbers of system calls since 424 are the same on every architecture.
test.each([
  ["open_tree", 428],
  ["move_mount", 429],
  ["fsopen", 430],
  ["clone3", 435],
  ["openat2", 437],
  ["mount_setattr", 442],
])("a kernel without %s is answered with that name and ENOSYS", (name, number) => {
  const args = [String(number), MINKE_OCI, "--root", root, "run", "--bundle", bundle, id("old")];
  const { status, output } = runProgram(join(folder, "enosys"), args);
  expect(output).toMatch(new RegExp(`^minke-oci: .*${name}: ENOSYS`));
  expect(status).toBe(1);
});

test("cgroups made on the way to a container's are removed with it, also side by side", () => {
  const parent = `minke-parent-${process.pid}`;
  configure(["true"], (config) => {
    config.linux.cgroupsPath = `${parent}/deep/leaf`;
  });
  const text = readFileSync(join(bundle, "config.json"), "utf8");
  const bundles = [0, 1, 2, 3].map((n) => {
    const copy = join(folder, `side-${n}`);
    mkdirSync(copy, { recursive: true });
    writeFileSync(
      join(copy, "config.json"),
      text.replace("/leaf", `/leaf-${n}`).replace('"rootfs"', `"${bundle}/rootfs"`),
    );
    return copy;
  });
  const script = 'for i in 1 2 3 4 5 6 7 8; do "$1" --root "$2" run --bundle "$3" "$4-$i" || exit 1; done';
  const commands = bundles.map(
    (path, n) => `sh -c '${script}' sh ${MINKE_OCI} ${root} ${path} ${id(`side-${n}`)} & p${n}=$!`,
  );
  const wait = bundles.map((_path, n) => `wait $p${n} || exit 1`).join("\n");
  expect(runProgram("sh", ["-c", `${commands.join("\n")}\n${wait}`])).toEqual({ status: 0, output: "" });
  for (const mount of ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]) {
    expect(existsSync(join(mount, "minke-oci", parent))).toBe(false);
  }
});
