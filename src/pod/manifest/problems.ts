/**
 * What is wrong with a manifest: one entry per field, by JSON path, and the error that carries them.
 */
import { RuntimeError } from "../../base/errors.js";

export interface FieldProblem {
  /** `spec.containers[0].image`; empty for the document itself. */
  readonly path: string;
  readonly message: string;
}

/** `invalid-argument` INVALID_MANIFEST with every problem found, not only the first. */
export class ManifestError extends RuntimeError {
  readonly problems: readonly FieldProblem[];

  constructor(subject: string, problems: readonly FieldProblem[]) {
    super(`${subject}: ${problems.map(describeProblem).join("; ")}`, {
      kind: "invalid-argument",
      code: "INVALID_MANIFEST",
    });
    this.name = "ManifestError";
    this.problems = problems;
  }
}

export function describeProblem(problem: FieldProblem): string {
  return problem.path === "" ? problem.message : `${problem.path}: ${problem.message}`;
}

/** `["spec", "containers", 0, "image"]` as `spec.containers[0].image`. */
export function toJsonPath(parts: readonly PropertyKey[]): string {
  let path = "";
  for (const part of parts) {
    if (typeof part === "number") path += `[${part}]`;
    else if (/^[A-Za-z_][\w-]*$/.test(String(part))) path += path === "" ? String(part) : `.${String(part)}`;
    else path += `["${String(part)}"]`;
  }
  return path;
}
