/**
 * `minke get configmaps|secrets [NAME]`. A table never shows a value; json and yaml do, as kubectl's.
 */
import { RuntimeError } from "../base/errors.js";
import type { ConfigJson, ConfigKind } from "../client/index.js";
import { connectTo, type GlobalOptions, print } from "./context.js";
import { age, table } from "./table.js";

export interface ConfigOptions extends GlobalOptions {
  readonly allNamespaces?: boolean;
  readonly output?: string;
}

const FORMATS = ["json", "yaml", "name"];
const KINDS: Readonly<Record<string, ConfigKind>> = {
  configmap: "configmaps",
  configmaps: "configmaps",
  cm: "configmaps",
  secret: "secrets",
  secrets: "secrets",
};

/** The kind that a word on the command line means; `undefined`: another one. */
export const configKind = (word: string): ConfigKind | undefined => KINDS[word];

export async function getConfigs(kind: ConfigKind, name: string | undefined, options: ConfigOptions): Promise<void> {
  if (options.output !== undefined && !FORMATS.includes(options.output)) {
    throw new RuntimeError(`option --output: "${options.output}" is not one of ${FORMATS.join(", ")}`, {
      kind: "invalid-argument",
      code: "INVALID_REQUEST",
    });
  }
  const client = await connectTo(options);
  const items =
    name === undefined
      ? await client.listConfigs(kind, options.allNamespaces ? undefined : options.namespace)
      : [await client.getConfig(kind, options.namespace, name)];
  const value = name === undefined ? { apiVersion: "v1", kind: "List", items } : items[0];
  if (options.output === "json") return print(JSON.stringify(value, null, 4));
  if (options.output === "yaml") {
    const { stringify } = await import("yaml");
    return print(stringify(value, { version: "1.1", aliasDuplicateObjects: false }));
  }
  if (options.output === "name")
    return items.forEach(({ metadata }) => print(`${kind.replace(/s$/, "")}/${metadata.name}`));
  if (items.length === 0) {
    process.stderr.write(`No ${kind} found${options.allNamespaces ? "" : ` in namespace ${options.namespace}`}.\n`);
    return;
  }
  const withNamespace = options.allNamespaces ?? false;
  const isSecret = kind === "secrets";
  print(
    table(
      [...(withNamespace ? ["NAMESPACE"] : []), "NAME", ...(isSecret ? ["TYPE"] : []), "DATA", "AGE"],
      items.map((item) => [
        ...(withNamespace ? [item.metadata.namespace] : []),
        item.metadata.name,
        ...(isSecret ? [item.type ?? ""] : []),
        String(keyCount(item)),
        age(item.metadata.creationTimestamp),
      ]),
    ),
  );
}

const keyCount = ({ data, binaryData }: ConfigJson): number =>
  Object.keys(data ?? {}).length + Object.keys(binaryData ?? {}).length;
