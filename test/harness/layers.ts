/**
 * The layers of src and native, and who breaks them: pure functions over file names and texts,
 * so that test/unit/architecture.test.ts can also show that a breach is found.
 */
import { dirname, join, normalize } from "node:path";

/** From top to bottom; folders of one level are siblings. */
const LEVELS: readonly (readonly string[])[] = [
  ["main", "cli"],
  ["client", "daemon-sockets"],
  ["cri", "api", "pod"],
  ["runtime"],
  ["image", "volume", "network", "nri", "monitor", "streaming", "doctor"],
  ["state"],
  ["spec"],
  ["native"],
];

/** Open to all, and importing nothing above themselves. */
const BASE = ["base", "settings", "oci"];

/**
 * Imports that the levels alone would refuse: `minke daemon` is the daemon in this process, and
 * `minke doctor` has to work where no daemon can.
 */
const ALSO_ALLOWED = ["api -> pod", "cli -> main"];

/**
 * `cli` and `client` know the daemon only through its socket. Of what lies below them they
 * may use types, and the pure modules that describe what crosses that socket.
 */
const CLIENTS = ["cli", "client"];
const OPEN_TO_CLIENTS = ["cli -> client", "cli -> main", "cli -> doctor"];
const WIRE = /^src\/(api\/unix-socket|streaming\/channels|pod\/manifest\/[^/]+)\.js$/;

/** Native folders, and which of the others each may include; every one may include its own. */
const NATIVE: Readonly<Record<string, readonly string[]>> = {
  sys: [],
  runtime: ["sys"],
  layer: ["sys"],
  grpc: [],
  addon: ["sys", "grpc"],
  init: ["sys", "runtime"],
  monitor: ["sys", "runtime"],
  oci: ["sys", "runtime", "monitor", "init"],
};

export interface SourceFile {
  /** Relative to the repository: `src/cri/server.ts`. */
  readonly path: string;
  readonly text: string;
}

/** Breaches of the import table, one sentence each. */
export function importBreaches(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, text }) => {
    const from = folderOf(path);
    if (!isListed(from)) return [`${path}: folder "${from}" is in no layer`];
    return importsOf(text)
      .filter(({ target }) => target.startsWith("."))
      .flatMap(({ target, isType }) => {
        const resolved = normalize(join(dirname(path), target));
        if (resolved === "package.json") return [];
        if (!resolved.startsWith("src/")) return [`${path}: imports ${target}, outside of src`];
        const to = folderOf(resolved);
        const isOpen = !CLIENTS.includes(from) || isType || WIRE.test(resolved) || isOpenToClient(from, to);
        return isOpen && mayImport(from, to) ? [] : [`${path}: ${from} may not import ${to}`];
      });
  });
}

/** Breaches of the native layers, one sentence each. */
export function includeBreaches(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, text }) => {
    const from = path.split("/")[1] ?? "";
    const allowed = NATIVE[from];
    if (!allowed) return [`${path}: folder "${from}" is in no layer`];
    return [...text.matchAll(/^\s*#\s*include\s*([<"])([^>"]+)[>"]/gm)].flatMap(([, , target = ""]) => {
      if (/^(napi|node_api|js_native_api)(-inl)?\.h$/.test(target) && from !== "addon") {
        return [`${path}: ${target} belongs to native/addon alone`];
      }
      const to = target.split("/")[0] ?? "";
      if (!target.includes("/") || !(to in NATIVE) || to === from || allowed.includes(to)) return [];
      // The system has <sys/…> headers too; ours exist.
      if (to === "sys" && !files.some((file) => file.path === `native/${target}`)) return [];
      return [`${path}: ${from} may not include ${to}`];
    });
  });
}

function folderOf(path: string): string {
  const parts = path.split("/");
  return parts.length > 2 ? (parts[1] ?? "") : (parts[1] ?? "").replace(/\.(ts|js)$/, "");
}

function levelOf(folder: string): number {
  return LEVELS.findIndex((level) => level.includes(folder));
}

function isListed(folder: string): boolean {
  return BASE.includes(folder) || levelOf(folder) >= 0;
}

function isOpenToClient(from: string, to: string): boolean {
  return from === to || BASE.includes(to) || OPEN_TO_CLIENTS.includes(`${from} -> ${to}`);
}

function mayImport(from: string, to: string): boolean {
  if (from === to) return true;
  if (BASE.includes(to)) return !BASE.includes(from) || to === "base";
  if (BASE.includes(from) || !isListed(to)) return false;
  return levelOf(from) < levelOf(to) || ALSO_ALLOWED.includes(`${from} -> ${to}`);
}

function importsOf(text: string): { target: string; isType: boolean }[] {
  const statements = [...text.matchAll(/^(?:import|export)\s+(type\s)?[^;"]*?\bfrom\s+"([^"]+)"/gm)];
  const others = [...text.matchAll(/\bimport\s+"([^"]+)"|\bimport\(\s*"([^"]+)"\s*\)/g)];
  return [
    ...statements.map(([, type, target = ""]) => ({ target, isType: type !== undefined })),
    ...others.map(([, bare, dynamic]) => ({ target: bare ?? dynamic ?? "", isType: false })),
  ];
}
