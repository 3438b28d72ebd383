import type { Pod as KubernetesPod } from "kubernetes-types/core/v1.js";
import { expectTypeOf, test } from "vitest";
import type { Pod } from "../../../src/pod/manifest/defaults.js";
import type { PodJson } from "../../../src/pod/status.js";

/** As JSON carries it: what is undefined or null is absent, and nothing is read-only. */
type AsJson<T> = T extends object ? { -readonly [K in keyof T]: AsJson<Exclude<T[K], undefined | null>> } : T;

test("metadata and status of a pod of ours are Kubernetes' to TypeScript", () => {
  type Ours = AsJson<Pick<PodJson, "apiVersion" | "kind" | "metadata" | "status">>;
  const asKubernetes = (pod: Ours): KubernetesPod => pod;
  expectTypeOf(asKubernetes).returns.toEqualTypeOf<KubernetesPod>();
});

test("what a manifest may say is what Kubernetes lets it say", () => {
  expectTypeOf<Pod["spec"]["restartPolicy"]>().toExtend<
    NonNullable<NonNullable<KubernetesPod["spec"]>["restartPolicy"]>
  >();
  expectTypeOf<keyof Pod["metadata"]>().toExtend<keyof NonNullable<KubernetesPod["metadata"]>>();
  expectTypeOf<keyof Pod["spec"]>().toExtend<keyof NonNullable<KubernetesPod["spec"]>>();
});
