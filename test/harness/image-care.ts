/**
 * A real image store with the fixture images for each test of their care, pulled once from a registry of its own.
 */
import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import { ImageStore, type ImageStoreOptions } from "../../src/image/image-store.js";
import { Paths } from "../../src/settings/paths.js";
import { fixtureLayout } from "./fixtures.js";
import { pushLayout, type Registry, startRegistry } from "./registry.js";
import { requires } from "./requires.js";

export interface CareStore {
  readonly registry: Registry;
  readonly root: string;
  readonly paths: Paths;
  readonly store: ImageStore;
  /** Image id to who uses it. */
  readonly users: Map<string, string[]>;
  /** The reference of a fixture image. */
  ref(name: string): string;
  idOf(name: string): string;
  /** Closes the store, and opens it as the next daemon would. */
  reopen(options?: ImageStoreOptions): Promise<ImageStore>;
}

/** At the top of a file; what the returned function gives is of the running test. */
export function useCareStore(): () => CareStore {
  let registry: Registry;
  let refs: string[];
  /** A root with the fixture images pulled, copied for each test. */
  let pulled: string;
  let care: CareStore & { store: ImageStore };

  beforeAll(async () => {
    registry = await startRegistry();
    refs = await pushLayout(registry, await fixtureLayout());
    pulled = await mkdtemp(join(tmpdir(), "minke-care-pulled-"));
    const first = await ImageStore.open(new Paths(pulled, join(pulled, "run")));
    for (const one of refs) await first.pull(one);
    await first.close();
  }, 60_000);
  afterAll(async () => {
    await registry?.close();
    if (pulled) await rm(pulled, { recursive: true, force: true });
  });

  beforeEach(requires("root", "registry"));
  beforeEach(async () => {
    const root = await mkdtemp(join(tmpdir(), "minke-care-"));
    execFileSync("cp", ["-a", `${pulled}/.`, root]);
    const paths = new Paths(root, join(root, "run"));
    const users = new Map<string, string[]>();
    const open = (options: ImageStoreOptions = {}) =>
      ImageStore.open(paths, {
        isInUse: (id) => users.has(id),
        usersOf: (id) => users.get(id) ?? [],
        ...options,
      });
    const ref = (name: string) => refs.find((one) => one.includes(`/${name}:`)) ?? "";
    care = {
      ...{ registry, root, paths, users, ref },
      store: await open(),
      idOf: (name) => care.store.resolve(ref(name))?.id ?? "",
      reopen: async (options) => {
        await care.store.close();
        care.store = await open(options);
        return care.store;
      },
    };
  });
  afterEach(async () => {
    await care.store.close();
    await rm(care.root, { recursive: true, force: true });
  });
  return () => care;
}
