/**
 * CDI devices of a container: finds them in the specification files of this host, and the nodes
 * that they name.
 *
 * The files are read for each container that asks: a vendor's tool may change them at any time, and
 * few containers ask. Of two directories the later one wins; a device that two files of the same
 * directory define is refused (SPEC.md, "CDI JSON Specification"). A file that cannot be read
 * concerns only who asks for what is not found.
 */
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import { hasErrno, RuntimeError, toRuntimeError, withContext } from "../base/errors.js";
import type { LinuxDevice, Spec } from "../oci/index.js";
import { type FoundNode, withCdiEdits } from "../spec/cdi-edits.js";
import { type CdiEdits, type CdiSpec, toCdiSpec } from "../spec/cdi-spec.js";
import { devicesAt } from "./host.js";

const MAX_FILE_BYTES = 8 * 1024 * 1024;

interface Found {
  readonly file: string;
  readonly spec: CdiSpec;
}

/**
 * The spec as the devices change it.
 *
 * @param names qualified: `vendor.example/class=name`; twice the same counts once
 * @throws RuntimeError `failed-precondition` CDI_DEVICE_NOT_FOUND, CDI_SPEC_INVALID,
 *   DEVICE_NOT_FOUND, UNSUPPORTED_FIELD
 */
export async function withCdiDevices(spec: Spec, names: readonly string[], dirs: readonly string[]): Promise<Spec> {
  if (names.length === 0) return spec;
  const { layers, problems } = await readDirectories(dirs);
  const edits: CdiEdits[] = [];
  const seen = new Set<Found>();
  for (const name of new Set(names)) {
    const found = findDevice(layers, name);
    if (!found) throw notFound(name, dirs, problems);
    // The edits of a file as a whole come once, before those of the first of its devices.
    if (!seen.has(found) && found.spec.containerEdits) edits.push(found.spec.containerEdits);
    seen.add(found);
    const device = found.spec.devices.find((one) => `${found.spec.kind}=${one.name}` === name);
    if (device) edits.push(device.containerEdits);
  }
  try {
    const wanted = edits.flatMap(({ deviceNodes }) => deviceNodes ?? []);
    return withCdiEdits(spec, edits, await Promise.all(wanted.map(findNode)));
  } catch (err) {
    throw withContext(err, `CDI devices ${[...new Set(names)].map((name) => `"${name}"`).join(", ")}`);
  }
}

function notFound(name: string, dirs: readonly string[], problems: readonly string[]): RuntimeError {
  const unread = problems.length === 0 ? "" : `; of these files nothing was used: ${problems.join("; ")}`;
  return new RuntimeError(
    `CDI device "${name}" is in no specification of ${dirs.join(", ") || "no directory"}${unread}`,
    {
      kind: "failed-precondition",
      code: "CDI_DEVICE_NOT_FOUND",
    },
  );
}

/** @param layers files of each directory, the one that wins first */
function findDevice(layers: readonly (readonly Found[])[], name: string): Found | undefined {
  for (const files of layers) {
    const holders = files.filter(({ spec }) => spec.devices.some((device) => `${spec.kind}=${device.name}` === name));
    if (holders.length > 1) {
      throw new RuntimeError(
        `CDI device "${name}" is defined by both "${holders[0]?.file}" and "${holders[1]?.file}"`,
        {
          kind: "failed-precondition",
          code: "CDI_SPEC_INVALID",
        },
      );
    }
    if (holders[0]) return holders[0];
  }
  return undefined;
}

async function readDirectories(dirs: readonly string[]): Promise<{ layers: Found[][]; problems: string[] }> {
  const layers: Found[][] = [];
  const problems: string[] = [];
  for (const dir of [...dirs].reverse()) {
    const names = await readdir(dir).catch((err: unknown) => {
      if (!hasErrno(err, "ENOENT")) problems.push(`"${dir}": ${toRuntimeError(err).message}`);
      return [];
    });
    const files: Found[] = [];
    for (const name of names.filter((one) => /\.(json|ya?ml)$/.test(one)).sort()) {
      const file = join(dir, name);
      try {
        files.push({ file, spec: toCdiSpec(await readDocument(file)) });
      } catch (err) {
        problems.push(`"${file}": ${err instanceof Error ? err.message.split("\n")[0] : String(err)}`);
      }
    }
    layers.push(files);
  }
  return { layers, problems };
}

/** YAML includes JSON, but not in the way of an error message. */
async function readDocument(path: string): Promise<unknown> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    if (size > MAX_FILE_BYTES) throw new Error(`larger than ${MAX_FILE_BYTES} bytes`);
    const text = await file.readFile("utf8");
    return path.endsWith(".json") ? JSON.parse(text) : parse(text, { maxAliasCount: 100 });
  } finally {
    await file.close();
  }
}

/** What the edits leave open, the node of the host says. */
async function findNode(wanted: NonNullable<CdiEdits["deviceNodes"]>[number]): Promise<FoundNode> {
  const { path, hostPath = path, type, major, minor } = wanted;
  if (type === "p") return { wanted, device: { type, path } };
  if (type !== undefined && major !== undefined && minor !== undefined)
    return { wanted, device: { type, path, major, minor } };
  const nodes = await devicesAt(hostPath).catch((err: unknown): LinuxDevice[] => {
    throw withContext(err, `device node "${hostPath}"`);
  });
  const [device] = nodes;
  if (!device || nodes.length > 1 || device.path !== hostPath || (type !== undefined && type !== device.type)) {
    throw new RuntimeError(`"${hostPath}" is not the device node that it is said to be`, {
      kind: "failed-precondition",
      code: "DEVICE_NOT_FOUND",
    });
  }
  return { wanted, device };
}
