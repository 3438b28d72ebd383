/**
 * The ConfigMaps, or the Secrets, of one daemon: durable records, and who has to know of a change.
 *
 * Values are never in an error, an event or a log line; names and keys are.
 */
import { randomUUID } from "node:crypto";
import { nowNs, toRfc3339 } from "../base/clock.js";
import { RuntimeError } from "../base/errors.js";
import type { RecordStore } from "../state/store.js";
import { configContent, type ConfigObject, type ConfigPart } from "./manifest/config-schema.js";

export interface ConfigRecord {
  readonly uid: string;
  readonly createdAtNs: string;
  /** Grows with every change. */
  readonly version: string;
  readonly object: ConfigObject;
}

/** As the API shows it. */
export type ConfigJson = ConfigObject & {
  readonly metadata: { readonly uid: string; readonly creationTimestamp: string; readonly resourceVersion: string };
};

/** Reading of what pods refer to. */
export interface ConfigSource {
  /** The bytes by key; `undefined` where there is no object of that name. */
  content(
    kind: ConfigObject["kind"],
    namespace: string,
    name: string,
    part: ConfigPart,
  ): ReadonlyMap<string, Buffer> | undefined;
}

export type ConfigListener = (kind: ConfigObject["kind"], namespace: string, name: string) => void;

export class ConfigObjects {
  readonly #kind: ConfigObject["kind"];
  readonly #store: RecordStore<ConfigRecord>;
  readonly #uids = new Map<string, string>();
  readonly #listeners = new Set<ConfigListener>();

  constructor(kind: ConfigObject["kind"], store: RecordStore<ConfigRecord>) {
    this.#kind = kind;
    this.#store = store;
    for (const { id, body } of store.list()) this.#uids.set(keyOf(body.object), id);
  }

  /** @throws RuntimeError `not-found` CONFIG_NOT_FOUND */
  get(namespace: string, name: string): ConfigJson {
    return shown(this.#record(namespace, name));
  }

  /** @param namespace `undefined`: all */
  list(namespace?: string): ConfigJson[] {
    return this.#store
      .list()
      .map(({ body }) => body)
      .filter(({ object }) => namespace === undefined || object.metadata.namespace === namespace)
      .sort((a, b) => (keyOf(a.object) < keyOf(b.object) ? -1 : 1))
      .map(shown);
  }

  content(namespace: string, name: string, part: ConfigPart): ReadonlyMap<string, Buffer> | undefined {
    const record = this.#find(namespace, name);
    return record && configContent(record.object, part);
  }

  /** @throws RuntimeError `already-exists` CONFIG_EXISTS */
  async create(object: ConfigObject): Promise<ConfigJson> {
    const key = keyOf(object);
    if (this.#uids.has(key)) {
      throw new RuntimeError(`${describe(object)} exists already`, { kind: "already-exists", code: "CONFIG_EXISTS" });
    }
    const uid = randomUUID();
    this.#uids.set(key, uid);
    try {
      return await this.#put({ uid, createdAtNs: String(nowNs()), version: newVersion(), object });
    } catch (err) {
      this.#uids.delete(key);
      throw err;
    }
  }

  /** @throws RuntimeError `not-found` CONFIG_NOT_FOUND, `failed-precondition` CONFIG_IMMUTABLE */
  async replace(object: ConfigObject): Promise<ConfigJson> {
    const record = this.#record(object.metadata.namespace, object.metadata.name);
    const { metadata: _before, ...before } = record.object;
    const { metadata: _after, ...after } = object;
    const isSame = JSON.stringify(sorted(before)) === JSON.stringify(sorted(after));
    if (record.object.immutable && !isSame) {
      throw new RuntimeError(`${describe(object)} is immutable`, {
        kind: "failed-precondition",
        code: "CONFIG_IMMUTABLE",
      });
    }
    if (isSame && JSON.stringify(sorted(record.object)) === JSON.stringify(sorted(object))) return shown(record);
    return this.#put({ ...record, version: newVersion(), object });
  }

  /** @throws RuntimeError `not-found` CONFIG_NOT_FOUND */
  async remove(namespace: string, name: string): Promise<ConfigJson> {
    const record = this.#record(namespace, name);
    await this.#store.remove(record.uid);
    this.#uids.delete(keyOf(record.object));
    return shown(record);
  }

  /** Calls back after every create and replace. */
  onChange(listener: ConfigListener): void {
    this.#listeners.add(listener);
  }

  async #put(record: ConfigRecord): Promise<ConfigJson> {
    await this.#store.put(record.uid, record);
    const { namespace, name } = record.object.metadata;
    for (const listener of this.#listeners) listener(this.#kind, namespace, name);
    return shown(record);
  }

  #find(namespace: string, name: string): ConfigRecord | undefined {
    const uid = this.#uids.get(`${namespace}/${name}`);
    return uid === undefined ? undefined : this.#store.get(uid);
  }

  #record(namespace: string, name: string): ConfigRecord {
    const found = this.#find(namespace, name);
    if (found) return found;
    throw new RuntimeError(`${this.#kind} "${name}" not found in namespace "${namespace}"`, {
      kind: "not-found",
      code: "CONFIG_NOT_FOUND",
    });
  }
}

const keyOf = ({ metadata }: ConfigObject): string => `${metadata.namespace}/${metadata.name}`;

function describe({ kind, metadata }: ConfigObject): string {
  return `${kind} "${metadata.name}" in namespace "${metadata.namespace}"`;
}

let lastVersion = 0n;

/** Grows over restarts, too, as long as the clock does. */
function newVersion(): string {
  const now = nowNs() / 1000n;
  lastVersion = now > lastVersion ? now : lastVersion + 1n;
  return String(lastVersion);
}

function shown({ uid, createdAtNs, version, object }: ConfigRecord): ConfigJson {
  const creationTimestamp = toRfc3339(BigInt(createdAtNs));
  return { ...object, metadata: { ...object.metadata, uid, creationTimestamp, resourceVersion: version } };
}

/** Keys in order: the order in a manifest means nothing. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}
