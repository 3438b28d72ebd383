/**
 * Index, manifest, config and layout of an image: OCI image-spec 1.1 as TypeScript types,
 * with the names of Docker's media types that registries still serve for the same things.
 *
 * Types and constants only; what comes from a registry is validated by src/image before
 * it is given one of these types.
 */

export const MEDIA_TYPE = {
  descriptor: "application/vnd.oci.descriptor.v1+json",
  layoutHeader: "application/vnd.oci.layout.header.v1+json",
  index: "application/vnd.oci.image.index.v1+json",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  /** Of artifacts without config or layers: the two bytes `{}`. */
  empty: "application/vnd.oci.empty.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar",
  layerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  layerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
  /** Deprecated by the specification; still met. */
  layerNondistributable: "application/vnd.oci.image.layer.nondistributable.v1.tar",
  layerNondistributableGzip: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
  layerNondistributableZstd: "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
  dockerManifestList: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
  dockerLayerForeign: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
} as const;

/** Annotation keys of the specification (annotations.md). */
export const ANNOTATION = {
  created: "org.opencontainers.image.created",
  authors: "org.opencontainers.image.authors",
  url: "org.opencontainers.image.url",
  documentation: "org.opencontainers.image.documentation",
  source: "org.opencontainers.image.source",
  version: "org.opencontainers.image.version",
  revision: "org.opencontainers.image.revision",
  vendor: "org.opencontainers.image.vendor",
  licenses: "org.opencontainers.image.licenses",
  /** Reference of a manifest in a layout's index. */
  refName: "org.opencontainers.image.ref.name",
  title: "org.opencontainers.image.title",
  description: "org.opencontainers.image.description",
  baseDigest: "org.opencontainers.image.base.digest",
  baseName: "org.opencontainers.image.base.name",
} as const;

/** Points at content by its digest (descriptor.md). */
export interface Descriptor {
  /** RFC 6838 media type of the content. */
  mediaType: string;
  /** `algorithm:encoded`. */
  digest: string;
  /** Bytes of the raw content. */
  size: number;
  /** Where else it may be downloaded. */
  urls?: string[] | undefined;
  annotations?: Record<string, string> | undefined;
  /** The content itself, base64. */
  data?: string | undefined;
  /** Of the artifact that this descriptor points at. */
  artifactType?: string | undefined;
  /** In an index: what the image runs on. */
  platform?: Platform | undefined;
}

export interface Platform {
  /** GOARCH: `amd64`, `arm64`. */
  architecture: string;
  /** GOOS: `linux`. */
  os: string;
  "os.version"?: string | undefined;
  "os.features"?: string[] | undefined;
  /** Of the CPU: `v7`, `v8`. */
  variant?: string | undefined;
}

/** image-index.md. */
export interface ImageIndex {
  schemaVersion: 2;
  mediaType?: string | undefined;
  artifactType?: string | undefined;
  manifests: Descriptor[];
  /** The manifest that this one is about (referrers). */
  subject?: Descriptor | undefined;
  annotations?: Record<string, string> | undefined;
}

/** manifest.md. */
export interface ImageManifest {
  schemaVersion: 2;
  mediaType?: string | undefined;
  /** Required where the config is the empty one. */
  artifactType?: string | undefined;
  config: Descriptor;
  /** Base layer first. */
  layers: Descriptor[];
  subject?: Descriptor | undefined;
  annotations?: Record<string, string> | undefined;
}

/** config.md: the image's configuration; its digest is the image id. */
export interface ImageConfig {
  /** RFC 3339. */
  created?: string | undefined;
  author?: string | undefined;
  architecture: string;
  os: string;
  "os.version"?: string | undefined;
  "os.features"?: string[] | undefined;
  variant?: string | undefined;
  /** How to run it. */
  config?: ExecutionConfig | undefined;
  rootfs: {
    type: "layers";
    /** Digests of the uncompressed layers, base first. */
    diff_ids: string[];
  };
  /** Base first. */
  history?: History[] | undefined;
}

/** Defaults for a container of the image (config.md, "config"). */
export interface ExecutionConfig {
  /** `user`, `uid`, `user:group`, `uid:gid`, `uid:group` or `user:gid`. */
  User?: string | undefined;
  /** Keys `port/tcp`, `port/udp` or `port`. */
  ExposedPorts?: Record<string, Record<string, never>> | undefined;
  /** `NAME=value`. */
  Env?: string[] | undefined;
  Entrypoint?: string[] | null | undefined;
  Cmd?: string[] | null | undefined;
  /** Paths where data of a container is likely written. */
  Volumes?: Record<string, Record<string, never>> | null | undefined;
  WorkingDir?: string | undefined;
  Labels?: Record<string, string> | null | undefined;
  /** `SIGTERM` or `RTMIN+3`. */
  StopSignal?: string | undefined;
  /** Docker's: the arguments are one escaped command line (Windows). */
  ArgsEscaped?: boolean | undefined;
  /** Docker's: seconds between stop signal and SIGKILL. */
  StopTimeout?: number | undefined;
}

export interface History {
  /** RFC 3339. */
  created?: string | undefined;
  author?: string | undefined;
  created_by?: string | undefined;
  comment?: string | undefined;
  /** This step made no layer. */
  empty_layer?: boolean | undefined;
}

/** The file `oci-layout` of an image layout (image-layout.md). */
export interface ImageLayout {
  imageLayoutVersion: "1.0.0";
}
