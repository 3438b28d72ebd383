/** How much slower than a host this machine is, MINKE_TEST_SLOWNESS: deadlines of the harness grow by it. */
export const SLOWNESS = Number(process.env["MINKE_TEST_SLOWNESS"] ?? 1);
