/**
 * Images that are as small as they can be and still hold each kind of entry that a layer can:
 * what a crash may spoil is easier to see in ten entries than in ten thousand.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { writeLayout } from "../../../rootfs-fixtures/oci-layout.mjs";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import { tarArchive } from "../../../rootfs-fixtures/tar-writer.mjs";

export interface SmallImage {
  readonly ref: string;
  /** The layout that holds it, alone. */
  readonly layout: string;
  readonly id: string;
}

interface Layer {
  readonly tar: Buffer;
  readonly comment: string;
}

/** A layer of one of each kind; layers of different names share no bytes of files. */
export function smallLayer(name: string, fileBytes = 3000): Layer {
  const text = (part: string, size: number) => Buffer.alloc(size, `${name}-${part}\n`);
  const mtimeS = 1_600_000_000;
  const entries = [
    { path: `${name}.d`, type: "dir", mode: 0o751, uid: 7, gid: 8, mtimeS },
    { path: `${name}.d/whole`, type: "file", mode: 0o644, mtimeS, content: text("whole", fileBytes) },
    { path: `${name}.d/owned`, type: "file", mode: 0o4755, uid: 33, gid: 44, mtimeS, content: text("owned", 100) },
    { path: `${name}.d/empty`, type: "file", mtimeS },
    { path: `${name}.d/link`, type: "symlink", target: "whole", mtimeS },
    { path: `${name}.d/pipe`, type: "fifo", mode: 0o640, mtimeS },
    { path: `${name}.d/.wh.gone`, type: "file", mtimeS },
    {
      path: `${name}.d/attributes`,
      type: "file",
      mtimeS,
      content: text("attributes", 10),
      pax: { "SCHILY.xattr.security.capability": Buffer.from("0100000200040000000000000000000000000000", "hex") },
    },
    { path: `${name}.d/same`, type: "hardlink", target: `${name}.d/whole`, mtimeS },
  ];
  return { tar: tarArchive(entries) as Buffer, comment: name };
}

/** Writes a layout of one image each. */
export function smallImage(folder: string, ref: string, layers: readonly Layer[]): SmallImage {
  const layout = join(
    folder,
    createHash("sha256")
      .update(ref)
      .update(layers.map(({ comment }) => comment).join())
      .digest("hex")
      .slice(0, 12),
  );
  mkdirSync(folder, { recursive: true });
  writeLayout(layout, [{ ref, layers, architecture: "amd64", config: { Cmd: ["/bin/true"] } }]);
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as { manifests: { digest: string }[] };
  const digest = index.manifests[0]?.digest ?? "";
  const manifest = JSON.parse(readFileSync(join(layout, "blobs/sha256", digest.slice(7)), "utf8")) as {
    config: { digest: string };
  };
  return { ref, layout, id: manifest.config.digest };
}
