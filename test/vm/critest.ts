/**
 * critest inside the machine: the specs that test/conformance/expected.json says run there, since the
 * test machine has neither AppArmor nor the memory controller.
 */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
// @ts-expect-error plain JavaScript with JSDoc
import { builtLayout } from "../conformance/layout.mjs";
// @ts-expect-error plain JavaScript with JSDoc
import { parseReport } from "../conformance/report.mjs";
import { CACHE, CHECKOUT } from "./machine/host.js";
import type { Vm } from "./machine/boot.js";
import { requiredTool } from "./tools.js";

const IMAGE = "e2e-test-images/busybox:1.29-2";
const WORK = "/tmp/critest";
const REF_NAME = "org.opencontainers.image.ref.name";

interface Expected {
  readonly failed: Readonly<Record<string, string>>;
  readonly skipped: Readonly<Record<string, string>>;
}

interface Spec {
  readonly name: string;
  readonly state: "passed" | "failed" | "skipped";
  readonly message: string;
}

interface Index {
  readonly manifests: readonly { readonly annotations?: Record<string, string> }[];
}

/** A later critest than the pinned one has them, and they pass on both machines: here by the controllers' own figures. */
const METRICS = "PodSandbox runtime should support metrics operations runtime should support";
const METRICS_SPECS = [
  `${METRICS} returning metrics descriptors [Conformance]`,
  `${METRICS} listing pod sandbox metrics [Conformance]`,
];

/** As test/conformance/run.mjs has it: the program that CRITEST names, or the pinned one. */
export const critestProgram = (): string => process.env["CRITEST"] || requiredTool("critest");

/** Names of the specs. */
export function specsOfVm(): readonly string[] {
  const program = process.env["CRITEST"];
  const further = program && readFileSync(program).includes("metrics operations") ? METRICS_SPECS : [];
  const text = readFileSync(`${CHECKOUT}/test/conformance/expected.json`, "utf8");
  const { failed, skipped } = JSON.parse(text) as Expected;
  const excepted = Object.entries({ ...failed, ...skipped }).filter(([, reason]) => reason.endsWith("runs in the VM"));
  return [...excepted.map(([name]) => name), ...further];
}

/** A layout with the one image of these specs, under the name that they ask for; nothing is pulled. */
export function critestImages(): string {
  const path = `${CACHE}/critest-images`;
  rmSync(path, { recursive: true, force: true });
  cpSync(builtLayout(CHECKOUT), path, { recursive: true });
  const index = JSON.parse(readFileSync(`${path}/index.json`, "utf8")) as Index;
  const manifests = index.manifests
    .filter(({ annotations }) => annotations?.[REF_NAME] === IMAGE)
    .map((manifest) => ({ ...manifest, annotations: { [REF_NAME]: `registry.k8s.io/${IMAGE}` } }));
  writeFileSync(`${path}/index.json`, JSON.stringify({ ...index, manifests }));
  return path;
}

/** Runs them: state and message by name, of those that were not skipped. */
export async function runCritest(vm: Vm, timeoutMs: number): Promise<ReadonlyMap<string, string>> {
  const flags = [
    `--config=${WORK}/crictl.yaml`,
    "--runtime-endpoint=unix:///run/minke/cri.sock",
    "-ginkgo.seed=1",
    "-ginkgo.no-color",
    `-ginkgo.json-report=${WORK}/report.json`,
    "-ginkgo.focus='AppArmor|Container OOM|support metrics operations'",
  ];
  // It calls sudo, which a machine whose only user is root does not have.
  await vm.output(`mkdir -p ${WORK}/bin && touch ${WORK}/crictl.yaml
    printf '#!/bin/sh\\nexec "$@"\\n' >${WORK}/bin/sudo && chmod +x ${WORK}/bin/sudo`);
  const { stdout } = await vm.run(
    `cd ${WORK}; PATH=${WORK}/bin:$PATH ${critestProgram()} ${flags.join(" ")} >log 2>&1; cat report.json || tail -c 4000 log`,
    { timeoutMs },
  );
  if (!stdout.startsWith("[")) throw new Error(`critest wrote no report: ${stdout}`);
  const specs = (parseReport(stdout) as readonly Spec[]).filter(({ state }) => state !== "skipped");
  return new Map(specs.map(({ name, state, message }) => [name, message === "" ? state : `${state}: ${message}`]));
}
