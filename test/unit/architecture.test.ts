/**
 * The rules of the house that no compiler holds: who may import whom, where Node-API may be
 * used, what the child between clone3 and execve may call, and how files are named and sized.
 * Each rule is also shown to find a breach.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, extname } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { importBreaches, includeBreaches, type SourceFile } from "../harness/layers.js";

const root = fileURLToPath(new URL("../..", import.meta.url));

const TOP_LEVEL = [
  ".ci .git .gitignore .npmrc LICENSE README.md binding.gyp examples native package-lock.json package.json",
  "rootfs-fixtures src test tsconfig.json",
  // Made by tools, ignored by git.
  ".cache build dist node_modules",
].flatMap((line) => line.split(" "));

const sources = filesBelow("src", [".ts"]).filter(({ path }) => !/^src\/(cri|nri)\/generated\//.test(path));
const generated = ["src/cri/generated", "src/nri/generated"].flatMap((dir) => filesBelow(dir, [".ts"]));
const natives = filesBelow("native", [".cc", ".h", ".c"]);
const tests = filesBelow("test", [".ts", ".cc", ".h", ".c"]);

describe("imports", () => {
  test("go down only", () => {
    expect(importBreaches([...sources, ...generated])).toEqual([]);
  });

  test.each([
    [
      "an upward import",
      "src/spec/build.ts",
      'import { x } from "../runtime/runtime.js";',
      "spec may not import runtime",
    ],
    [
      "a sibling import",
      "src/image/store.ts",
      'import { x } from "../network/ipam.js";',
      "image may not import network",
    ],
    ["pod importing api", "src/pod/engine.ts", 'export { x } from "../api/server.js";', "pod may not import api"],
    ["the command inside the daemon", "src/cli/run.ts", 'await import("../pod/engine.js")', "cli may not import pod"],
    [
      "the library inside the runtime",
      "src/client/x.ts",
      'import { x } from "../runtime/x.js";',
      "client may not import runtime",
    ],
    ["base importing a layer", "src/base/log.ts", 'import "../state/store.js";', "base may not import state"],
    ["an unlisted folder", "src/misc/x.ts", "", 'folder "misc" is in no layer'],
    ["an unlisted target", "src/pod/x.ts", 'import { x } from "../misc/x.js";', "pod may not import misc"],
  ])("%s is found", (_, path, text, expected) => {
    expect(importBreaches([{ path, text }])).toEqual([`${path}: ${expected}`]);
  });

  test("of api from pod, of state from a verb and of base from everywhere are allowed", () => {
    const files = [
      { path: "src/api/server.ts", text: 'import { x } from "../pod/engine.js";' },
      { path: "src/runtime/run-sandbox.ts", text: 'import { x } from "../state/sandbox.js";' },
      { path: "src/client/index.ts", text: 'import type { PodJson } from "../pod/status.js";' },
      { path: "src/cli/daemon.ts", text: 'const { runDaemon } = await import("../main.js");' },
      { path: "src/native/fd.ts", text: 'import { x } from "../base/errors.js";' },
    ];
    expect(importBreaches(files)).toEqual([]);
  });
});

describe("includes", () => {
  test("go down only, and Node-API stays in native/addon", () => {
    expect(includeBreaches(natives)).toEqual([]);
  });

  test.each([
    ["napi.h outside of the addon", "native/sys/x.h", "#include <napi.h>", "napi.h belongs to native/addon alone"],
    ["sys including runtime", "native/sys/x.cc", '#include "runtime/plan.h"', "sys may not include runtime"],
    ["layer including runtime", "native/layer/x.cc", '#include "runtime/plan.h"', "layer may not include runtime"],
    ["an unlisted folder", "native/misc/x.cc", "", 'folder "misc" is in no layer'],
  ])("%s is found", (_, path, text, expected) => {
    expect(includeBreaches([{ path, text }])).toEqual([`${path}: ${expected}`]);
  });

  test("of the system's <sys/mount.h> are no breach", () => {
    expect(includeBreaches([{ path: "native/layer/x.cc", text: "#include <sys/mount.h>" }])).toEqual([]);
  });
});

test("the child between clone3 and execve calls only what the allowlist names", ({ skip }) => {
  const objects = `${root}build/Release/obj.target/minke-oci/native/runtime`;
  if (!existsSync(objects)) skip("missing: the native build (npm run build:native)");
  const { stderr, status } = spawnSync("bash", [`${root}test/native/check-child-symbols.sh`, objects], {
    encoding: "utf8",
  });
  expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
});

describe("files", () => {
  test("at the top level are the listed ones", () => {
    expect(readdirSync(root).filter((name) => !TOP_LEVEL.includes(name))).toEqual([]);
  });

  test("of TypeScript are kebab-case, those of C++ snake_case", () => {
    const wrong = [...sources, ...natives, ...tests].filter(({ path }) => {
      const name = basename(path).replace(/(\.(test|config|d))?\.\w+$/, "");
      const pattern = extname(path) === ".ts" ? /^[a-z0-9]+(-[a-z0-9]+)*$/ : /^[a-z0-9]+(_[a-z0-9]+)*$/;
      return !pattern.test(name);
    });
    expect(wrong.map(({ path }) => path)).toEqual([]);
  });

  test("are never named after nothing", () => {
    const banned = /^(utils?|helpers?|common|misc|manager|handler|data|info)$/;
    const wrong = [...sources, ...natives].filter(({ path }) =>
      path.split("/").some((part) => banned.test(part.replace(/\.\w+$/, ""))),
    );
    expect(wrong.map(({ path }) => path)).toEqual([]);
  });

  test("open with a comment that says what they are for", () => {
    // A .cc with a header of its name is described there.
    const described = new Set(natives.map(({ path }) => path.replace(/\.h$/, ".cc")));
    const own = natives.filter(({ path }) => !path.endsWith(".cc") || !described.has(path));
    const wrong = [...sources, ...own].filter(({ text }) => !/^(\/\*\*|\/\/|\/\*|#!)/.test(text));
    expect(wrong.map(({ path }) => path)).toEqual([]);
  });

  test("have under 800 lines, and those over 400 are named here", () => {
    const lines = ({ text }: SourceFile) => text.split("\n").length;
    const long = [...sources, ...natives].filter((file) => lines(file) > 400);
    for (const file of long) console.warn(`long file: ${file.path} has ${lines(file)} lines`);
    expect(long.filter((file) => lines(file) > 800).map(({ path }) => path)).toEqual([]);
  });
});

function filesBelow(folder: string, extensions: readonly string[]): SourceFile[] {
  if (!existsSync(`${root}${folder}`)) return [];
  return readdirSync(`${root}${folder}`, { recursive: true, encoding: "utf8" })
    .filter((name) => extensions.includes(extname(name)) && !name.includes("node_modules"))
    .map((name) => ({ path: `${folder}/${name}`, text: readFileSync(`${root}${folder}/${name}`, "utf8") }));
}
