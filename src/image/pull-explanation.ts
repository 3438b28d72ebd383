/**
 * What a pull would do and why: endpoints in their order, the credential of each by its source,
 * and how asking them for the image's documents went. Fetches no layer, stores nothing.
 */
import { toRuntimeError } from "../base/errors.js";
import type { Platform } from "../oci/image-spec.js";
import type { AuthConfig } from "./credentials.js";
import { resolveImage } from "./image-source.js";
import type { ImageReference } from "./reference.js";
import type { PlannedEndpoint, RegistryClient, RegistryStep } from "./registry-client.js";
import { registrySource } from "./registry-source.js";

export interface PullExplanation {
  /** With registry and tag as they were understood. */
  readonly reference: string;
  readonly platform: string;
  readonly endpoints: readonly PlannedEndpoint[];
  /** Requests, in their order. */
  readonly steps: readonly RegistryStep[];
  readonly outcome:
    | { readonly id: string; readonly manifestDigest: string; readonly layers: number; readonly packedBytes: number }
    | { readonly code: string; readonly message: string };
}

/** @throws RuntimeError as `RegistryClient.repository`; that the image is not to be had is an outcome */
export async function explainPull(
  client: RegistryClient,
  reference: ImageReference,
  platform: Platform,
  options: {
    readonly auth?: AuthConfig | undefined;
    readonly allowForeignLayers: boolean;
    readonly signal: AbortSignal;
  },
): Promise<PullExplanation> {
  const steps: RegistryStep[] = [];
  const { registry, repository: name } = reference;
  const repository = await client.repository(registry, name, {
    auth: options.auth,
    onStep: (step) => steps.push(step),
  });
  const facts = {
    reference: reference.toString(),
    platform: [platform.os, platform.architecture, platform.variant].filter(Boolean).join("/"),
    endpoints: repository.plan(),
    steps,
  };
  try {
    const top = await repository.manifest(reference.digest ?? reference.tag ?? "latest", options.signal);
    const source = registrySource(repository, options.allowForeignLayers);
    const image = await resolveImage(source, top, platform, facts.reference, options.signal);
    const { config, layers } = image.manifest;
    const packedBytes = layers.reduce((sum, { size }) => sum + size, 0);
    return {
      ...facts,
      outcome: { id: config.digest, manifestDigest: image.manifestDigest, layers: layers.length, packedBytes },
    };
  } catch (err) {
    const { code, message } = toRuntimeError(err);
    return { ...facts, outcome: { code, message } };
  }
}
