/**
 * Which container a command means that names none: the first, said aloud where there are several.
 */
import type { MinkeClient, PodJson } from "../client/index.js";
import { note } from "./context.js";

/** What people annotate a pod with to choose the container; kubectl reads the same. */
const ANNOTATION = "kubectl.kubernetes.io/default-container";

/**
 * The container to use, in the words of kubectl where it is a choice (podcmd.FindOrDefaultContainerByName).
 *
 * @param asked `undefined`: none was named
 */
export async function chooseContainer(
  client: MinkeClient,
  namespace: string,
  pod: string,
  asked: string | undefined,
): Promise<string> {
  return asked ?? defaultContainer(await client.getPod(namespace, pod));
}

export function defaultContainer({ spec, metadata }: PodJson): string {
  const [first] = spec.containers;
  const chosen = metadata.annotations?.[ANNOTATION] ?? first?.name ?? "";
  const all = [
    ...spec.containers.map(({ name }) => name),
    ...(spec.initContainers ?? []).map(({ name }) => `${name} (init)`),
  ];
  if (all.length > 1 && metadata.annotations?.[ANNOTATION] === undefined)
    note(`Defaulted container "${chosen}" out of: ${all.join(", ")}`);
  return chosen;
}
