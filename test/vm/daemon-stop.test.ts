/** The end of the daemon that the other files shared. */
import { beforeAll, expect, test } from "vitest";
import { DAEMON_MS, sharedDaemon, SLOW_MS } from "./daemon.js";
import { busyboxPod, podApi } from "./pod-api.js";
import { sharedVm } from "./shared-vm.js";

const vm = sharedVm();
const pods = podApi(vm);

beforeAll(async () => {
  await sharedDaemon(vm());
  await pods.create(busyboxPod("last", "sleep 1000"));
  await pods.running("last");
}, DAEMON_MS);

test("daemon stop --pods ends the daemon and leaves neither cgroup nor link nor process", {
  timeout: SLOW_MS,
}, async () => {
  await vm().output("node dist/cli/main.js daemon stop --pods", { timeoutMs: SLOW_MS });
  expect(
    await vm().output(
      `for i in $(seq 100); do pgrep 'minke-monitor' >/dev/null || break; sleep 0.1; done
      pgrep 'minke-(monitor|init)'; pgrep -f 'cli/main.js [d]aemon'
      find /sys/fs/cgroup/minke/pods /sys/fs/cgroup/minke/monitors -mindepth 1 -type d 2>/dev/null
      ip -o link show type veth; nft list tables | grep minke; true`,
      { timeoutMs: SLOW_MS },
    ),
  ).toBe("");
});
