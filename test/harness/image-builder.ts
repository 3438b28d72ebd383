/** Images made for one test: rootfs-fixtures' plain JavaScript, with types. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
// @ts-expect-error plain JavaScript with JSDoc, outside of this project's root
import * as images from "../../rootfs-fixtures/images.mjs";
// @ts-expect-error as above
import * as ociLayout from "../../rootfs-fixtures/oci-layout.mjs";

export interface TarEntry {
  readonly path: string;
  readonly type: "file" | "dir" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly content?: Buffer;
  readonly target?: string;
}

export interface Layer {
  readonly tar: Buffer;
  readonly comment: string;
}

export interface Image {
  readonly ref: string;
  readonly layers: readonly Layer[];
  readonly architecture: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** This machine's, in Go's words. */
export const ARCHITECTURE = process.arch === "x64" ? "amd64" : process.arch;

/** A layer of these entries and of every directory above them that they do not name. */
export const layer = images.layer as (entries: readonly TarEntry[]) => Layer;

export const file = images.file as (path: string, content: string, mode?: number) => TarEntry;

/** Makes `outDir` a layout of these images. */
export const writeLayout = ociLayout.writeLayout as (outDir: string, images: readonly Image[]) => void;

/** The fixture images' busybox layer, to put others on. */
export function baseLayer(layout: string): Layer {
  const blob = (digest: string) => readFileSync(join(layout, "blobs/sha256", digest.slice("sha256:".length)));
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as { manifests: { digest: string }[] };
  const manifest = JSON.parse(blob(index.manifests[0]?.digest ?? "").toString("utf8")) as {
    layers: { digest: string }[];
  };
  return { tar: gunzipSync(blob(manifest.layers[0]?.digest ?? "")), comment: "busybox" };
}
