/**
 * Builds the native products with node-gyp, offline where it can.
 *
 * Node's headers are taken from `<prefix>/include/node` beside the running node; only
 * where they are missing does node-gyp look for them in its own way (a download).
 * `--tests` also builds the doctest program of test/native.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const prefix = dirname(dirname(process.execPath));
const args = ["configure", "build", "--jobs", String(availableParallelism())];
if (existsSync(join(prefix, "include/node/node_api.h"))) args.push(`--nodedir=${prefix}`);

const gyp = createRequire(import.meta.url).resolve("node-gyp/bin/node-gyp.js");
const { npm_config_nodedir: _ignored, ...env } = process.env;
// Not `-- -Dwith_tests=1`: node-gyp would hand that to make as well.
if (process.argv.includes("--tests")) env.GYP_DEFINES = "with_tests=1";
const { status } = spawnSync(process.execPath, [gyp, "--loglevel=warn", ...args], { stdio: "inherit", env });
process.exit(status ?? 1);
