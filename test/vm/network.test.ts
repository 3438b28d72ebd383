/** The pod network on this kernel, which has what the host may lack: SCTP. */
import { beforeAll, expect, test } from "vitest";
import { DAEMON_MS, sharedDaemon, SLOW_MS } from "./daemon.js";
import { busyboxPod, podApi } from "./pod-api.js";
import { quoted } from "./quoted.js";
import { sharedVm } from "./shared-vm.js";
import { requiredTool } from "./tools.js";

const vm = sharedVm();
const pods = podApi(vm);
const PORT = 20_320;

const SOCKET = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)";
const SERVER = `${SOCKET}
s.bind(("0.0.0.0", 80)); s.listen(); print("up", flush=True)
while True: s.accept()[0].send(b"sctp")`;
const CLIENT = `${SOCKET}
s.settimeout(60); s.connect(("127.0.0.1", ${PORT})); print(s.recv(9).decode())`;

const output = (command: string) => vm().output(command, { timeoutMs: SLOW_MS });

beforeAll(async () => {
  requiredTool("crictl");
  await sharedDaemon(vm());
}, DAEMON_MS);

test("an SCTP host port answers, and is refused to a second pod", { timeout: 2 * SLOW_MS }, async () => {
  await output("modprobe sctp");
  const ports = [{ containerPort: 80, hostPort: PORT, protocol: "SCTP" }];
  await pods.create(busyboxPod("sctp", "sleep 1000", { container: { ports } }));
  const procs = `${await pods.cgroup("sctp")}/cgroup.procs`;
  await output(`setsid nsenter -n -t $(head -1 ${procs}) python3 -c ${quoted(SERVER)} >/tmp/sctp.log 2>&1 &
    echo $! >/tmp/sctp.pid
    for i in $(seq 600); do grep -q up /tmp/sctp.log && exit; sleep 0.1; done; cat /tmp/sctp.log; exit 1`);
  expect(await output(`python3 -c ${quoted(CLIENT)}`)).toBe("sctp\n");

  const port_mappings = [{ protocol: 2, container_port: 80, host_port: PORT }];
  const metadata = { name: "second", namespace: "vm", uid: "second", attempt: 0 };
  const config = quoted(JSON.stringify({ metadata, port_mappings, linux: {} }));
  const second = await vm().run(
    `${requiredTool("crictl")} -r unix:///run/minke/cri.sock -t 60s runp <(printf %s ${config})`,
    { timeoutMs: SLOW_MS },
  );
  expect(second.code).not.toBe(0);
  expect(second.stderr).toMatch(new RegExp(`FailedPrecondition.*sctp port ${PORT} of the host: it is in use`));
  await output("kill $(cat /tmp/sctp.pid)");
  await pods.remove("sctp");
});
