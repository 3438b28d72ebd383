/**
 * Writes package-lock.json anew: `npm run lock`, after any change of a dependency.
 *
 * Two things that npm alone does not do. Binaries for other platforms are optional
 * packages, and npm leaves out of the lock those that the configured registry does not
 * hold, after which `npm ci` refuses the lock; they are entered here from what their
 * parents name, so that the lock is the same on every registry. And no address of a
 * registry is recorded.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";

const LOCK = "package-lock.json";
const OS = ["aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "openharmony", "sunos", "win32"];
const CPU = ["arm64", "arm", "x64", "ia32", "ppc64", "riscv64", "s390x", "loong64", "mips64el", "wasm32"];
const ALIAS = { windows: "win32", armv7: "arm", x86_64: "x64", aarch64: "arm64", wasm32: "wasm32" };

const env = { ...process.env, npm_config_omit_lockfile_registry_resolved: "false" };
if (!process.argv.includes("--keep")) {
  rmSync(LOCK, { force: true });
  const { status } = spawnSync("npm", ["install", "--package-lock-only", "--no-audit", "--no-fund"], {
    stdio: "inherit",
    env,
  });
  if (status !== 0) process.exit(status ?? 1);
}

const lock = JSON.parse(readFileSync(LOCK, "utf8"));
const packages = lock.packages;
let entered = 0;
for (const [path, entry] of Object.entries(packages)) {
  delete entry.resolved;
  for (const [name, range] of Object.entries(entry.optionalDependencies ?? {})) {
    if (packages[`node_modules/${name}`] || packages[`${path}/node_modules/${name}`]) continue;
    const words = name.split(/[-/]/).map((word) => ALIAS[word] ?? word);
    const os = words.find((word) => OS.includes(word)) ?? (name.startsWith("fsevents") ? "darwin" : undefined);
    const cpu = words.find((word) => CPU.includes(word));
    packages[`node_modules/${name}`] = {
      version: range.replace(/^[\^~=v]+/, ""),
      ...(cpu ? { cpu: [cpu] } : {}),
      ...(entry.dev ? { dev: true } : {}),
      optional: true,
      ...(os ? { os: [os] } : {}),
    };
    entered++;
  }
}
lock.packages = Object.fromEntries(Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
writeFileSync(LOCK, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`${LOCK}: ${Object.keys(packages).length - 1} packages, ${entered} of them for other platforms`);
