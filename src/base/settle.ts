/** Steps side by side: all have ended, well or not, before the caller goes on. */

/**
 * Promise.all that waits for every part before it fails, with the first failure in their order: an undo,
 * or a next try, must never run beside the step that it is about.
 */
export async function settleAll<T extends readonly unknown[]>(
  parts: { readonly [K in keyof T]: Promise<T[K]> | T[K] },
): Promise<T> {
  const outcomes: PromiseSettledResult<unknown>[] = await Promise.allSettled(parts);
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw failed.reason;
  return outcomes.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : undefined)) as unknown as T;
}
