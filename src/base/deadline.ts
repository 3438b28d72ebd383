/** Waiting no longer than so long. */

/**
 * Settles as `work` does, or to "late" after `ms`, whichever is first; what `work` does later is the
 * caller's. No timer is left.
 */
export async function orLate<T>(work: Promise<T>, ms: number): Promise<{ readonly value: T } | "late"> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), ms);
  });
  try {
    return await Promise.race([work.then((value) => ({ value })), late]);
  } finally {
    clearTimeout(timer);
  }
}
