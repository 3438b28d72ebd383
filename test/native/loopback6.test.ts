/**
 * Host ports on ::1. Whether answers come back depends on br_netfilter, which a network namespace
 * has switched on or off for itself: so each case runs the built network in a namespace of its own.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { beforeEach, expect, test } from "vitest";
import { PROJECT } from "../harness/cli.js";
import { requires } from "../harness/requires.js";

const SWITCH = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";

/** Prints what each case gives: a JSON object. */
const SCRIPT = `
import { spawn, execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { createSocket } from "node:dgram";
const { PodNetwork } = await import("${PROJECT}dist/network/pod-network.js");
const { createSandboxNamespaces } = await import("${PROJECT}dist/native/index.js");
const { createLog } = await import("${PROJECT}dist/base/log.js");
const { newSandboxId } = await import("${PROJECT}dist/base/ids.js");
try { writeFileSync("${SWITCH}", process.env.SWITCH); } catch {}
execFileSync("ip", ["link", "set", "lo", "up"]);
const records = new Map();
const store = { put: async (id, body) => void records.set(id, body), get: (id) => records.get(id), remove: async (id) => void records.delete(id), list: () => [...records].map(([id, body]) => ({ id, body })) };
const network = await PodNetwork.open({ bridge: "mklo6", subnet4: "10.203.32.0/24", subnet6: "fd10:205::/64", owner: "/tmp/minke-net-lo6" }, store, createLog("silent"));
const made = await createSandboxNamespaces({ network: true, ipc: false, uts: false, hostname: "", domainname: "", sysctls: {} });
const mapping = (protocol, hostPort, containerPort, hostIp = "") => ({ protocol, hostPort, containerPort, hostIp });
const podOf = async (portMappings) => {
  const made = await createSandboxNamespaces({ network: true, ipc: false, uts: false, hostname: "", domainname: "", sysctls: {} });
  const id = newSandboxId();
  await network.reserve(id, portMappings);
  await network.setup(id, { netns: made.net, netlink: made.netlink });
  return made;
};
const pod = await podOf([mapping("tcp", 20501, 80), mapping("udp", 20502, 53)]);
const explicit = await podOf([mapping("tcp", 20503, 80, "::1")]).then(() => "made", (err) => err.code);
const code = 'require("net").createServer(s=>s.end(s.remoteAddress)).listen(80,"::");const u=require("dgram").createSocket("udp6");u.on("message",(m,r)=>u.send(r.address,r.port,r.address));u.bind(53,()=>console.log("up"))';
const server = spawn("nsenter", ["--net=/proc/" + process.pid + "/fd/" + pod.net.number, process.execPath, "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
await new Promise((resolve) => server.stdout.once("data", resolve));
const ask = (host) => new Promise((resolve) => {
  let text = "";
  const socket = connect({ host, port: 20501, timeout: 20000 });
  socket.on("data", (bytes) => (text += bytes)).on("end", () => resolve(text));
  socket.on("error", (err) => resolve(err.code)).on("timeout", () => resolve("timeout"));
});
const askUdp = () => new Promise((resolve) => {
  const socket = createSocket("udp6");
  const end = (answer) => { socket.close(); resolve(answer); };
  socket.once("message", (bytes) => end(String(bytes))).once("error", (err) => end(err.code));
  socket.connect(20502, "::1", () => socket.send("x"));
});
console.log(JSON.stringify({ explicit, tcp: await ask("::1"), udp: await askUdp(), bridge: await ask("fd10:205::1") }));
server.kill("SIGKILL");
await network.close({ removeAll: true });
process.exit(0);
`;

async function runWith(value: "0" | "1"): Promise<Record<string, string>> {
  const { stdout } = await promisify(execFile)(
    "unshare",
    ["--net", process.execPath, "--input-type=module", "-e", SCRIPT],
    {
      env: { ...process.env, SWITCH: value },
    },
  );
  return JSON.parse(stdout) as Record<string, string>;
}

beforeEach(requires("root", "netns"));

test("answer over TCP and UDP where bridged packets do not pass ip6tables", async () => {
  const from = "fd10:205::1";
  expect(await runWith("0")).toEqual({ explicit: "made", tcp: from, udp: from, bridge: from });
});

test("are refused at once where they do, so that a client goes on to 127.0.0.1, and ::1 itself is an error", async (context) => {
  if (!existsSync(SWITCH)) context.skip("missing: br_netfilter");
  expect(await runWith("1")).toEqual({
    explicit: "HOST_PORT_UNREACHABLE",
    tcp: "ECONNREFUSED",
    udp: "ECONNREFUSED",
    bridge: "fd10:205::1",
  });
});
