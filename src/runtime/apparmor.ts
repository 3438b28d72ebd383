/**
 * The default AppArmor profile in the kernel: loaded once, beside the daemon's start, and again where it
 * has been taken out. What a container's creation waits for has a bound; without the parser, or where
 * it fails, containers run without the profile.
 *
 * Never taken out: a process whose profile goes is unconfined from then on (apparmor_parser(8), "--remove"),
 * and other daemons use the same one.
 */
import { execFile } from "node:child_process";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { hasErrno } from "../base/errors.js";
import { DEFAULT_APPARMOR_PROFILE, defaultAppArmorProfile } from "../spec/default-apparmor.js";
import type { DefaultAppArmor } from "../spec/container-spec.js";

/** Compiling takes a fiftieth of a second; half a minute where a machine is emulated and busy. */
const DEADLINE_MS = 60_000;
/** So that a parser that hangs holds up few of the containers. */
const RETRY_AFTER_MS = 60_000;
/** Also where PATH does not lead, as an unprivileged user's does not. */
const FOLDERS = "/usr/sbin:/sbin:/usr/local/sbin";

/** A name and its mode a line: `minke-default (enforce)`. Without securityfs nobody can tell. */
export async function loadedProfiles(): Promise<ReadonlySet<string> | undefined> {
  try {
    const text = await readFile("/sys/kernel/security/apparmor/profiles", "utf8");
    return new Set(text.split("\n").map((line) => line.replace(/ \([^()]*\)$/, "")));
  } catch (err) {
    if (hasErrno(err, "ENOENT")) return undefined;
    throw err;
  }
}

export async function hasAppArmor(): Promise<boolean> {
  return (await readFile("/sys/module/apparmor/parameters/enabled", "utf8").catch(() => "N")).startsWith("Y");
}

export class AppArmorProfile {
  /** The text as it was loaded last: a profile in the kernel that is of it is not compiled again. */
  readonly #record: string;
  readonly #parser: string;
  readonly #closed = new AbortController();
  #loading: Promise<DefaultAppArmor> | undefined;
  #last: DefaultAppArmor | "loading" = "loading";
  #failedAtMs = Number.NEGATIVE_INFINITY;

  /** @param dir the daemon's own, for the text of the profile */
  constructor(dir: string, parser = "apparmor_parser") {
    this.#record = join(dir, "apparmor-profile");
    this.#parser = parser;
  }

  /** What was found last, for a status. */
  get last(): DefaultAppArmor | "loading" {
    return this.#last;
  }

  /**
   * The profile, in the kernel, or why there is none. Calls that come while it is loaded wait for that; after a
   * failure it is tried again once a minute at most. Never throws.
   */
  async ready(): Promise<DefaultAppArmor> {
    this.#loading ??= this.#load().finally(() => (this.#loading = undefined));
    return this.#loading;
  }

  /** Ends a parser that is at work; nothing is written afterwards. */
  async close(): Promise<void> {
    this.#closed.abort();
    await this.#loading;
  }

  async #load(): Promise<DefaultAppArmor> {
    if (this.#last !== "loading" && "why" in this.#last && performance.now() - this.#failedAtMs < RETRY_AFTER_MS) {
      return this.#last;
    }
    try {
      const loaded = await loadedProfiles();
      const isLoaded = loaded?.has(DEFAULT_APPARMOR_PROFILE) === true;
      // What this daemon has loaded or recognised needs no other look.
      if (isLoaded && this.#last !== "loading" && "profile" in this.#last) return this.#last;
      const text = defaultAppArmorProfile(await ownLabel());
      const recorded = await readFile(this.#record, "utf8").catch(() => "");
      if (!isLoaded || recorded !== text) {
        const file = `${this.#record}.new`;
        await writeFile(file, text, { mode: 0o600 });
        const env = { ...process.env, PATH: `${process.env["PATH"] ?? ""}:${FOLDERS}` };
        const options = { env, timeout: DEADLINE_MS, killSignal: "SIGKILL", signal: this.#closed.signal } as const;
        await promisify(execFile)(this.#parser, ["--replace", "--skip-cache", file], options);
        await rename(file, this.#record);
      }
      this.#last = { profile: DEFAULT_APPARMOR_PROFILE };
    } catch (err) {
      this.#failedAtMs = performance.now();
      this.#last = { why: reasonOf(err) };
    }
    return this.#last;
  }
}

/** The label that the containers' signals come from. */
async function ownLabel(): Promise<string> {
  const text = await readFile("/proc/self/attr/current", "utf8").catch(() => "unconfined");
  const label = text
    .replace(/\0/g, "")
    .trim()
    .replace(/ \([^()]*\)$/, "");
  // What would have to be escaped is no name of a profile that anybody uses.
  return /^[\w./+:-]+$/.test(label) ? label : "unconfined";
}

function reasonOf(err: unknown): string {
  const { code, killed, stderr = "" } = err as { code?: unknown; killed?: boolean; stderr?: string };
  if (code === "ENOENT") return "apparmor_parser is not installed";
  if (killed) return `apparmor_parser did not end in ${DEADLINE_MS / 1000} s`;
  const text = stderr.trim() || (err instanceof Error ? err.message : String(err));
  return `apparmor_parser: ${text.split("\n")[0] ?? ""}`;
}
