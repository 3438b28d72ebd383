/** The image of `npm run bench -- pull`: six gzip layers, about 226 MB of tar, of files that this machine has. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const LAYERS = 6;
const TAR_BYTES = 226_000_000;
/** Of what the image is made: programs and libraries, as images hold them. */
const SOURCES = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/gcc",
  "/usr/bin",
  "/usr/share/perl",
  "/usr/lib/python3",
  "/usr/share/doc",
];

/**
 * The image as an OCI layout, made once: a sixth of the files in each layer.
 *
 * @param {string} dir where it is kept
 */
export function imageLayout(dir) {
  if (!existsSync(dir)) {
    const building = `${dir}.${process.pid}`;
    mkdirSync(join(building, "blobs/sha256"), { recursive: true });
    const put = (bytes) => {
      const hex = createHash("sha256").update(bytes).digest("hex");
      writeFileSync(join(building, "blobs/sha256", hex), bytes);
      return { digest: `sha256:${hex}`, size: bytes.length };
    };
    const layers = [];
    const diffIds = [];
    for (const files of chooseFiles()) {
      const tar = execFileSync(
        "tar",
        ["-cf", "-", "--no-recursion", "--numeric-owner", "-P", "--transform=s,^/,,", "--null", "-T", "-"],
        { input: files.join("\0"), maxBuffer: 2 ** 31 },
      );
      diffIds.push(`sha256:${createHash("sha256").update(tar).digest("hex")}`);
      const packed = execFileSync("gzip", ["-6", "-n"], { input: tar, maxBuffer: 2 ** 31 });
      layers.push({
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
        ...put(packed),
        annotations: { "minke.bench.tar-bytes": String(tar.length) },
      });
    }
    const config = {
      architecture: process.arch === "x64" ? "amd64" : process.arch,
      os: "linux",
      config: {},
      rootfs: { type: "layers", diff_ids: diffIds },
    };
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...put(Buffer.from(JSON.stringify(config))) },
      layers,
    };
    const top = {
      mediaType: manifest.mediaType,
      ...put(Buffer.from(JSON.stringify(manifest))),
      annotations: { "org.opencontainers.image.ref.name": "bench:1" },
    };
    writeFileSync(join(building, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [top] }));
    writeFileSync(join(building, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    renameSync(building, dir);
  }
  const [top] = JSON.parse(readFileSync(join(dir, "index.json"), "utf8")).manifests;
  const { layers } = JSON.parse(readFileSync(join(dir, "blobs/sha256", top.digest.slice(7)), "utf8"));
  const sum = (of) => layers.reduce((total, layer) => total + of(layer), 0);
  return {
    dir,
    packedBytes: sum(({ size }) => size),
    tarBytes: sum(({ annotations }) => Number(annotations["minke.bench.tar-bytes"])),
  };
}

/** Lists of regular files, each for a layer of a sixth of the size. */
function chooseFiles() {
  const lists = [[]];
  let bytes = 0;
  const visit = (dir) => {
    for (const entry of readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (bytes >= TAR_BYTES) return;
      const path = join(dir, entry.name);
      if (entry.isDirectory()) visit(path);
      if (!entry.isFile()) continue;
      const { size } = statSync(path);
      // One huge file would be a layer of its own.
      if (size > 12_000_000) continue;
      bytes += 1024 + size;
      if (bytes > (TAR_BYTES / LAYERS) * lists.length && lists.length < LAYERS) lists.push([]);
      lists.at(-1).push(path);
    }
  };
  for (const dir of SOURCES) if (existsSync(dir)) visit(dir);
  return lists;
}
