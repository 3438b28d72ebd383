/**
 * Pods of network namespaces alone, on a built-in network of their own for each test, and what
 * they ask each other. Needs root, nft, ip, nsenter and unshare.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { connect } from "node:net";
import { afterEach, beforeEach } from "vitest";
import { newSandboxId, type SandboxId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { createSandboxNamespaces, type Fd, type NewLink, type SandboxNamespaceFds } from "../../src/native/index.js";
import { linkPrefix } from "../../src/network/link-names.js";
import { type NetworkRecord, type NetworkSettings, PodNetwork } from "../../src/network/pod-network.js";
import type { PortMapping, SandboxNetwork } from "../../src/state/sandbox.js";
import { MemoryStore } from "./memory-store.js";
import { requires } from "./requires.js";

export const log = createLog("silent");

export interface Pod {
  readonly id: SandboxId;
  readonly namespaces: SandboxNamespaceFds;
  readonly network: SandboxNetwork;
}

export const run = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: "utf8" });

export function port(
  hostPort: number,
  hostIp = "",
  protocol: PortMapping["protocol"] = "tcp",
  containerPort = 80,
): PortMapping {
  return { protocol, containerPort, hostPort, hostIp };
}

/** What the server sees as the client's address, asked from the host. */
export function ask(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = connect({ host, port, timeout: 20_000 });
    socket.on("data", (bytes) => (text += bytes));
    socket.on("end", () => resolve(text));
    socket.on("error", reject);
    socket.on("timeout", () => reject(new Error(`no answer from ${host} port ${port}`)));
  });
}

export function netnsOf(made: SandboxNamespaceFds): Fd {
  if (!made.net) throw new Error("no network namespace");
  return made.net;
}

/**
 * A network before each test, removed after it, with a look at what it leaves.
 *
 * @param settings whose bridge and subnets no other file uses: files run side by side
 */
export function networkBench(settings: NetworkSettings) {
  const bench = {
    store: new MemoryStore<NetworkRecord>(),
    network: undefined as unknown as PodNetwork,
    namespaces: [] as SandboxNamespaceFds[],
    programs: [] as ChildProcess[],
  };
  /** Links and tables of this file: the machine may run other daemons and files meanwhile. */
  const names = settings.bridge.replace(/\d+$/, "");
  const ownLinks = (): string[] =>
    run("ip", "-br", "-o", "link")
      .split("\n")
      .filter((line) => line.startsWith(names) || line.startsWith(linkPrefix(settings.bridge)));
  const ownTables = (): string[] =>
    run("nft", "list", "tables")
      .split("\n")
      .filter((line) => line.includes(`minke_${names}`));

  async function makeNamespaces(link?: NewLink): Promise<SandboxNamespaceFds> {
    const { link: replies, ...made } = await createSandboxNamespaces({
      network: true,
      ipc: false,
      uts: false,
      hostname: "",
      domainname: "",
      sysctls: {},
      link,
    });
    bench.namespaces.push(made);
    return { ...made, ...(replies && { link: replies }) };
  }

  const netnsPath = (made: SandboxNamespaceFds): string => `/proc/${process.pid}/fd/${netnsOf(made).number}`;

  async function addPod(portMappings: readonly PortMapping[] = [], id = newSandboxId()): Promise<Pod> {
    return (await plan(portMappings, id))();
  }

  /** A pod up to its link, which is on its way; what is returned waits for that. */
  async function plan(
    portMappings: readonly PortMapping[] = [],
    id = newSandboxId(),
    meanwhile: () => void = () => undefined,
  ): Promise<() => Promise<Pod>> {
    const { link } = await bench.network.reserve(id, portMappings);
    meanwhile();
    const { link: replies, ...made } = await makeNamespaces(link);
    return async () => {
      if (!made.netlink) throw new Error("no netlink socket");
      const planned = replies && { link, replies };
      const set = await bench.network.setup(id, { netns: netnsOf(made), netlink: made.netlink, planned });
      return { id, namespaces: made, network: set };
    };
  }

  /** A TCP server that tells each client the address it sees; settles when it listens. */
  async function serve(made: SandboxNamespaceFds, port: number): Promise<void> {
    const code = `require("net").createServer(s=>s.end(s.remoteAddress.replace("::ffff:",""))).listen(${port},"::",()=>console.log("up"))`;
    await start(made, code);
  }

  /** A UDP server that answers with its own name. */
  async function serveUdp(made: SandboxNamespaceFds, port: number, name: string): Promise<void> {
    const code = `const s=require("dgram").createSocket("udp4");s.on("message",(m,r)=>s.send("${name}",r.port,r.address));s.bind(${port},()=>console.log("up"))`;
    await start(made, code);
  }

  async function start(
    made: SandboxNamespaceFds,
    code: string,
    command: readonly string[] = [process.execPath, "-e"],
  ): Promise<void> {
    const child = spawn("nsenter", [`--net=${netnsPath(made)}`, ...command, code], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    bench.programs.push(child);
    await new Promise<void>((resolve, reject) => {
      child.stdout?.once("data", () => resolve());
      child.once("exit", () => reject(new Error("server ended")));
    });
  }

  /** The same, asked from inside a namespace. */
  function askFrom(made: SandboxNamespaceFds, host: string, port: number, timeoutMs = 20_000): string {
    const code = `const s=require("net").connect({host:"${host}",port:${port},timeout:${timeoutMs}});s.pipe(process.stdout);s.on("error",e=>{console.log(e.code);process.exit(1)});s.on("timeout",()=>{console.log("timeout");process.exit(1)})`;
    return run("nsenter", `--net=${netnsPath(made)}`, process.execPath, "-e", code);
  }

  /** Another host behind the link mknetout, with routes to the pods through this one. */
  async function withOutside(work: (outside: SandboxNamespaceFds) => Promise<void>): Promise<void> {
    const outside = await makeNamespaces();
    run("ip", "link", "add", "mknetout", "type", "veth", "peer", "name", "eth0", "netns", netnsPath(outside));
    try {
      run("ip", "addr", "add", "10.203.128.1/24", "dev", "mknetout");
      run("ip", "addr", "add", "fd10:204::1/64", "dev", "mknetout", "nodad");
      run("ip", "link", "set", "mknetout", "up");
      const inside = (...args: string[]) => run("nsenter", `--net=${netnsPath(outside)}`, "ip", ...args);
      inside("link", "set", "eth0", "up");
      inside("addr", "add", "10.203.128.2/24", "dev", "eth0");
      inside("addr", "add", "fd10:204::2/64", "dev", "eth0", "nodad");
      inside("route", "add", "default", "via", "10.203.128.1");
      inside("-6", "route", "add", "default", "via", "fd10:204::1");
      await work(outside);
    } finally {
      run("ip", "link", "del", "mknetout");
    }
  }

  beforeEach(requires("root", "netns", "nft"));
  beforeEach(async () => {
    bench.store = new MemoryStore();
    bench.namespaces = [];
    bench.programs = [];
    bench.network = await PodNetwork.open(settings, bench.store, log);
  });
  afterEach(async () => {
    for (const program of bench.programs) program.kill("SIGKILL");
    await bench.network.close({ removeAll: true });
    for (const made of bench.namespaces) for (const fd of Object.values(made)) (fd as Fd).close();
    const left = [...ownLinks(), ...ownTables(), ...bench.store.records.keys()];
    if (left.length > 0) throw new Error(`left behind: ${left.join(", ")}`);
  });
  return { bench, makeNamespaces, netnsPath, addPod, plan, serve, serveUdp, start, askFrom, withOutside };
}
