/**
 * From parsed documents to pods that the engine takes: strict shapes, rules, defaults, warnings.
 *
 * Called by the command before anything is sent, and by the API server for every create: the
 * same text is never accepted by one and refused by the other.
 */
import type { z } from "zod";
import { type ConfigObject, configMapSchema, configProblems, secretSchema, toConfigObject } from "./config-schema.js";
import { applyDefaults, type Pod } from "./defaults.js";
import { isEssentialField, isKubernetesField } from "./ignored.js";
import { type FieldProblem, ManifestError, toJsonPath } from "./problems.js";
import { podSchema } from "./schema.js";
import { dnsWarnings, metadataProblems, podProblems, podWarnings } from "./validate.js";

export interface Manifest {
  readonly pods: readonly Pod[];
  /** The document of each pod as it was written, defaults not filled in. */
  readonly documents: readonly unknown[];
  /** ConfigMaps and Secrets. */
  readonly configs: readonly ConfigObject[];
  /** Fields without effect, by path. */
  readonly warnings: readonly FieldProblem[];
}

export interface ReadOptions {
  /** What messages call it: a file name, `<stdin>`, `request`. */
  readonly source: string;
  /** Where a document names none. */
  readonly namespace: string;
  /** A field without effect is an error. */
  readonly strict: boolean;
}

/** @throws ManifestError `invalid-argument` INVALID_MANIFEST with every problem by path */
export function readManifest(documents: readonly unknown[], options: ReadOptions): Manifest {
  const problems: FieldProblem[] = [];
  const warnings: FieldProblem[] = [];
  const pods: Pod[] = [];
  const written: unknown[] = [];
  const configs: ConfigObject[] = [];
  documents.forEach((document, index) => {
    const found: Found = { problems: [], warnings: [] };
    const kind = kindOf(document);
    if (typeof document !== "object" || document === null || Array.isArray(document)) {
      found.problems.push({ path: "the document", message: "not an object with apiVersion, kind and metadata" });
    } else if (kind === "Pod") {
      const pod = parseShape(podSchema, document, found);
      if (pod) {
        found.problems.push(...podProblems(pod));
        const complete = applyDefaults(pod, options.namespace);
        found.warnings.push(...podWarnings(complete), ...dnsWarnings(pod));
        pods.push(complete);
        written.push(document);
      }
    } else if (kind === "ConfigMap" || kind === "Secret") {
      const config =
        kind === "ConfigMap" ? parseShape(configMapSchema, document, found) : parseShape(secretSchema, document, found);
      if (config) {
        found.problems.push(...metadataProblems(config.metadata), ...configProblems(config));
        configs.push(toConfigObject(config, options.namespace));
      }
    } else {
      found.problems.push({
        path: "kind",
        message: kind ? `"${kind}" is not supported; use Pod, ConfigMap or Secret` : "required",
      });
    }
    const prefix = documents.length > 1 ? `document ${index + 1}: ` : "";
    problems.push(...found.problems.map((p) => ({ ...p, path: prefix + p.path })));
    warnings.push(...found.warnings.map((w) => ({ ...w, path: prefix + w.path })));
  });
  problems.push(...duplicateNames([...pods, ...configs]));
  if (options.strict)
    problems.push(...warnings.map(({ path, message }) => ({ path, message: message.replace(/, ignored$/, "") })));
  if (problems.length > 0) throw new ManifestError(`manifest "${options.source}"`, problems);
  return { pods, documents: written, configs, warnings };
}

interface Found {
  readonly problems: FieldProblem[];
  readonly warnings: FieldProblem[];
}

function kindOf(document: unknown): string | undefined {
  if (typeof document !== "object" || document === null || !("kind" in document)) return undefined;
  return typeof document.kind === "string" ? document.kind : undefined;
}

/**
 * Checks a document against a schema. Unknown keys become warnings and are taken out, then the
 * rest is checked again; everything else is a problem.
 */
function parseShape<T>(schema: z.ZodType<T>, document: unknown, found: Found): T | undefined {
  const copy: unknown = structuredClone(document);
  const first = schema.safeParse(copy);
  if (first.success) return first.data;
  for (const issue of first.error.issues) {
    if (issue.code !== "unrecognized_keys") continue;
    for (const key of issue.keys) {
      const path = toJsonPath([...issue.path, key]);
      if (isEssentialField(issue.path, key)) {
        found.problems.push({ path, message: "not supported, and the pod would not be the same without it" });
      } else {
        found.warnings.push({
          path,
          message: isKubernetesField(issue.path, key) ? "has no effect here, ignored" : "unknown field, ignored",
        });
      }
      deleteAt(copy, issue.path, key);
    }
  }
  const second = schema.safeParse(copy);
  if (second.success) return second.data;
  for (const issue of second.error.issues) {
    found.problems.push({
      path: toJsonPath(issue.path),
      message: describeIssue(issue, isSecret(copy) ? undefined : copy),
    });
  }
  return undefined;
}

function deleteAt(root: unknown, path: readonly PropertyKey[], key: string): void {
  const parent = valueAt(root, path);
  if (typeof parent === "object" && parent !== null) Reflect.deleteProperty(parent, key);
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root;
  for (const part of path) value = typeof value === "object" && value !== null ? Reflect.get(value, part) : undefined;
  return value;
}

/** Values of such a document are not for messages. */
const isSecret = (document: unknown): boolean => kindOf(document) === "Secret";

/** @param root the document, for the value that is wrong; `undefined`: not to be shown */
function describeIssue(issue: z.core.$ZodIssue, root: unknown): string {
  const value = valueAt(root, issue.path);
  if (issue.code === "invalid_type" && value === undefined && root !== undefined) return "required";
  const message = issue.message.replace(/^Invalid input: /, "");
  const shown =
    typeof value === "string" || typeof value === "number" || typeof value === "boolean"
      ? ` (it is ${JSON.stringify(value)})`
      : "";
  return `${message}${shown}`;
}

function duplicateNames(objects: readonly Pick<Pod | ConfigObject, "kind" | "metadata">[]): FieldProblem[] {
  const seen = new Set<string>();
  const problems: FieldProblem[] = [];
  for (const { kind, metadata } of objects) {
    const key = `${kind} ${metadata.namespace}/${metadata.name}`;
    if (seen.has(key))
      problems.push({
        path: "metadata.name",
        message: `two objects of kind ${kind} are named "${metadata.name}" in namespace "${metadata.namespace}"`,
      });
    seen.add(key);
  }
  return problems;
}
