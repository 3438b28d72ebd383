/**
 * The commands of README.md, as a reader would run them: every line of its `sh` blocks, in order.
 *
 * `npm start` and `npm stop` use the machine's default folders, so the blocks run only where
 * no daemon of the machine's own is there to be disturbed.
 */
import { existsSync, readFileSync } from "node:fs";
import { beforeEach, expect, test } from "vitest";
import { PROJECT, runCommand } from "../harness/cli.js";
import { requires } from "../harness/requires.js";

const TAKES_OVER = ["/run/minke/api.sock", "/var/lib/minke"];

const commands = [...readFileSync(`${PROJECT}README.md`, "utf8").matchAll(/^```sh\n(.*?)^```/gms)]
  .flatMap(([, block = ""]) => block.split("\n"))
  .map((line) => line.replace(/^\$ /, "").trim())
  .filter((line) => line && !line.startsWith("#"));

beforeEach(requires("root", "cgroup2", "overlayfs"));

test("README.md starts with npm start and ends with npm stop", () => {
  expect(commands[0]).toBe("npm start");
  expect(commands).toContain("npm stop");
});

test("every command of README.md succeeds", async ({ skip }) => {
  const taken = TAKES_OVER.filter((path) => existsSync(path));
  if (taken.length > 0 && !process.env["CI"]) skip(`a daemon of this machine's own is here: ${taken.join(", ")}`);
  try {
    for (const command of commands) {
      const { code, stdout, stderr } = await runCommand("bash", ["-c", command], { timeoutMs: 300_000 });
      expect(code, `${command}\n${stdout}${stderr}`).toBe(0);
    }
  } finally {
    await runCommand("npm", ["stop"]);
  }
  expect(TAKES_OVER.filter((path) => existsSync(path))).toEqual([]);
}, 900_000);
