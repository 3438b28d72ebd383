/**
 * Two steps side by side, of which the first has to be undone where the second fails.
 */

/** Both results; where the second fails, what the first made is undone. */
export async function settleBoth<A, B>(
  first: Promise<A>,
  second: Promise<B>,
  undoFirst: (made: A) => Promise<unknown>,
): Promise<[A, B]> {
  const [a, b] = await Promise.allSettled([first, second]);
  if (a.status === "rejected") throw a.reason;
  if (b.status === "rejected") {
    await undoFirst(a.value);
    throw b.reason;
  }
  return [a.value, b.value];
}
