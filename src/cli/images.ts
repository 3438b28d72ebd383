/**
 * `minke pull` and `minke version`.
 */
import { createRequire } from "node:module";
import type { PullExplanation } from "../image/pull-explanation.js";
import { connectTo, EXIT, type GlobalOptions, print } from "./context.js";
import { PullProgress } from "./pull-progress.js";
import { bytes, counted } from "./table.js";

export async function pull(
  reference: string,
  options: GlobalOptions & { readonly explain?: boolean; readonly output?: string },
): Promise<void> {
  const client = await connectTo(options);
  if (options.explain) return explain(await client.explainPull(reference), options.output === "json");
  const progress = new PullProgress();
  try {
    const image = await client.pullImage(reference, (step) => progress.show(step));
    progress.end();
    if (options.output === "json") return print(JSON.stringify(image, null, 4));
    print(`${image.repoTags[0] ?? image.repoDigests[0] ?? reference} ${image.id} (${bytes(image.sizeBytes)})`);
  } finally {
    progress.end();
  }
}

/** Which endpoint, which credential, and why; fails where the image is not to be had. */
function explain(explanation: PullExplanation, isJson: boolean): void {
  const { endpoints, steps, outcome } = explanation;
  if ("code" in outcome) process.exitCode = outcome.code === "IMAGE_NOT_FOUND" ? EXIT.notFound : EXIT.failed;
  if (isJson) return print(JSON.stringify(explanation, null, 4));
  print(`${explanation.reference} for ${explanation.platform}`);
  for (const [i, { address, role, reason, tls, proxy, credential }] of endpoints.entries()) {
    print(`${i + 1}. ${address} (${role})`);
    print(`   because:     ${reason}`);
    print(`   connection:  ${tls}${proxy ? `, through the proxy ${proxy}` : ""}`);
    print(`   credential:  ${credential}`);
  }
  for (const { address, subject, outcome: said } of steps) print(`asked ${address} for ${subject}: ${said}`);
  if ("code" in outcome) return print(`result: ${outcome.code}: ${outcome.message}`);
  const { id, layers, packedBytes } = outcome;
  print(`result: image ${id}, ${counted(layers, "layer")}, ${bytes(packedBytes)} to fetch where none is here`);
}

/** Ends with the code of an unreachable daemon where none runs: scripts ask so whether one does. */
export async function showVersion(options: GlobalOptions): Promise<void> {
  const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };
  print(`minke ${version}`);
  const client = await connectTo(options, { startDaemon: false });
  const daemon = await client.version();
  print(`daemon ${daemon.minkeVersion} (Kubernetes API ${daemon.gitVersion.replace(/\+.*/, "")}, ${daemon.platform})`);
}
