/** The loading of the default profile, with a parser of the test's own: this kernel may have no AppArmor. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { AppArmorProfile } from "../../../src/runtime/apparmor.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "minke-apparmor-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A program that notes what it was called with and does what `script` says. */
function parser(script: string): string {
  const path = join(dir, "parser");
  writeFileSync(path, `#!/bin/sh\necho "$1" >>${dir}/calls\ncp "$3" ${dir}/text\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}
const calls = () => readFileSync(join(dir, "calls"), "utf8").trim().split("\n");

test("those who ask while it is loaded share one run of the parser, which gets the profile's text", async () => {
  const profile = new AppArmorProfile(dir, parser("sleep 0.1"));
  expect(profile.last).toBe("loading");
  const found = await Promise.all([profile.ready(), profile.ready(), profile.ready()]);
  expect(found).toEqual(Array.from({ length: 3 }, () => ({ profile: "minke-default" })));
  expect(profile.last).toEqual({ profile: "minke-default" });
  expect(calls()).toEqual(["--replace"]);
  expect(readFileSync(join(dir, "text"), "utf8")).toMatch(/^profile minke-default /);
});

test("a parser that is not there is told, and no error", async () => {
  const profile = new AppArmorProfile(dir, join(dir, "nothing"));
  expect(await profile.ready()).toEqual({ why: "apparmor_parser is not installed" });
});

test("a parser that fails is told with its first line, and not asked again at once", async () => {
  const profile = new AppArmorProfile(dir, parser("echo 'no such feature' >&2; echo more >&2; exit 1"));
  expect(await profile.ready()).toEqual({ why: "apparmor_parser: no such feature" });
  await profile.ready();
  expect(calls()).toEqual(["--replace"]);
});

test("close ends the parser, and nothing is recorded", async () => {
  const profile = new AppArmorProfile(dir, parser(`touch ${dir}/up; exec sleep 1000`));
  const found = profile.ready();
  await expect.poll(() => existsSync(join(dir, "up")), { timeout: 60_000 }).toBe(true);
  await profile.close();
  expect(await found).toHaveProperty("why");
  expect(existsSync(join(dir, "apparmor-profile"))).toBe(false);
});
