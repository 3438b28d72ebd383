/** A daemon inside the machine, its images, and commands that take their time there. */
import type { Vm } from "./machine/boot.js";
import { quoted } from "./quoted.js";

/** The daemon loads in five seconds here, in a minute while the host's two cores are shared by ten. */
export const SLOW_MS = 240_000;
const API = "curl -sf --unix-socket /run/minke/api.sock";

/** Starts it and waits until it answers. */
export async function startDaemon(vm: Vm, log: string, ...args: string[]): Promise<void> {
  await vm.output(
    `setsid node dist/cli/main.js daemon ${args.map(quoted).join(" ")} >>${log} 2>&1 &
    for i in $(seq 800); do ${API} http://localhost/healthz && exit; sleep 0.2; done
    cat ${log}; exit 1`,
    { timeoutMs: SLOW_MS },
  );
}

/** Loads an OCI layout. @param path absolute */
export async function loadImages(vm: Vm, path: string): Promise<void> {
  const body = quoted(JSON.stringify({ path }));
  const request = `-H 'content-type: application/json' -d ${body} http://localhost/minke/v1/images/load`;
  await vm.output(`${API} ${request} >/dev/null`, { timeoutMs: SLOW_MS });
}

export async function stopDaemon(vm: Vm): Promise<void> {
  await vm.output("node dist/cli/main.js daemon stop --pods", { timeoutMs: SLOW_MS });
}
