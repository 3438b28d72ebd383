/** The pod network on this kernel, which has what the host may lack: SCTP. */
import { expect, test } from "vitest";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
/** vitest itself takes half a minute to load here. */
const SLOW_MS = 300_000;

test(
  "an SCTP host port answers",
  async () => {
    await vm().output("modprobe sctp");
    // Not that of the whole project: a slow machine has more time.
    const options = "--config test/vitest.config.ts --project native --testTimeout 200000 --hookTimeout 100000";
    const command = `env REQUIRE=all node node_modules/vitest/vitest.mjs run ${options} test/native/network.test.ts -t 'an SCTP port answers'`;
    const { code, stdout, stderr } = await vm().run(command, { timeoutMs: SLOW_MS });
    expect(code, `${stdout}${stderr}`).toBe(0);
    expect(stdout).toContain("1 passed, 0 failed");
  },
  SLOW_MS + 10_000,
);
