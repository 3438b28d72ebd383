/**
 * Boots a Debian kernel under QEMU on the host's own root and runs commands inside.
 *
 * Software emulation only: the test machine's /dev/kvm crashes Debian guests. The machine
 * ends with its parent (PR_SET_PDEATHSIG), at the end of its lifetime, or when told to.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Channel, type RunResult } from "./channel.js";
import { CACHE, CHECKOUT } from "./host.js";
import { makeInitramfs } from "./initramfs.js";
import { prepareKernel, type KernelName } from "./kernel.js";

export interface BootOptions {
  readonly kernel?: KernelName;
  /** Image file with an ext4 file system (`makeDisk`), mounted at /var/lib/minke. */
  readonly disk?: string | undefined;
  /** An empty file that gets every write to the disk (block-log.ts). */
  readonly diskLog?: string | undefined;
  /** More of the kernel's command line. */
  readonly append?: string;
  readonly memoryMiB?: number;
  /** Names the console log, .cache/vm/<name>.log. */
  readonly name?: string;
  readonly bootTimeoutMs?: number;
  /** After this long the machine is killed, whatever goes on. */
  readonly lifetimeMs?: number;
  /** The machine goes on after the process that booted it; only `kill` of its pid ends it. */
  readonly detached?: boolean;
}

/** How another process reaches a machine: plain data. */
export interface VmAddress {
  readonly pid: number;
  readonly agentSocket: string;
  /** A root shell on a terminal; test/vm/shell.mjs connects to it. */
  readonly shellSocket: string;
  readonly consoleLog: string;
  readonly bootMs: number;
  readonly release: string;
}

const DEFAULT_RUN_TIMEOUT_MS = 60_000;

/** A machine that is up. */
export class Vm {
  readonly address: VmAddress;
  readonly #channel: Channel;
  readonly #end: (() => Promise<void>) | undefined;

  constructor(address: VmAddress, channel: Channel, end?: () => Promise<void>) {
    this.address = address;
    this.#channel = channel;
    this.#end = end;
  }

  /**
   * A machine that another process booted; it is that one's to end. One at a time: QEMU takes the next
   * client when the one before has disconnected, which is waited for.
   */
  static async connect(address: VmAddress, timeoutMs: number): Promise<Vm> {
    const channel = await Channel.open(address.agentSocket);
    await channel.run("true", timeoutMs);
    return new Vm(address, channel);
  }

  /** Runs a bash script inside, in the checkout, as root. */
  async run(script: string, options: { readonly timeoutMs?: number } = {}): Promise<RunResult> {
    try {
      return await this.#channel.run(script, options.timeoutMs ?? DEFAULT_RUN_TIMEOUT_MS);
    } catch (err) {
      const reason = err instanceof Error ? err.message : String(err);
      throw new Error(`${reason}\n${consoleTail(this.address.consoleLog)}`, { cause: err });
    }
  }

  /** Standard output of a script that must succeed. */
  async output(script: string, options: { readonly timeoutMs?: number } = {}): Promise<string> {
    const { code, stdout, stderr, timedOut } = await this.run(script, options);
    if (code === 0) return stdout;
    const how = timedOut ? "did not end in time" : `ended with ${code}`;
    throw new Error(`in the VM: ${script}\n${how}\n${stderr}${stdout}`.trim());
  }

  /** Leaves the machine as it is. */
  disconnect(): void {
    this.#channel.close();
  }

  /** Ends the machine at once, like a power cut: what the guest had not yet written is lost. */
  async powerCut(): Promise<void> {
    this.#channel.close(new Error("the VM has been ended"));
    await this.#end?.();
  }

  /** Writes everything to the disk, then ends the machine. */
  async kill(): Promise<void> {
    await this.#channel.run("sync; umount /var/lib/minke", 10_000).catch(() => undefined);
    await this.powerCut();
  }
}

/** Boots a machine and returns when it runs commands. Fails with the end of its console. */
export async function bootVm(options: BootOptions = {}): Promise<Vm> {
  const kernel = prepareKernel(options.kernel ?? "debian");
  mkdirSync(CACHE, { recursive: true });
  const consoleLog = join(CACHE, `${options.name ?? "vm"}.log`);
  rmSync(consoleLog, { force: true });
  // A socket's path is limited to 107 bytes, so they are not in the cache folder.
  const folder = mkdtempSync(join(tmpdir(), "minke-vm-"));
  const sockets = { agent: join(folder, "agent"), shell: join(folder, "shell") };
  const startedAt = performance.now();
  const initramfs = makeInitramfs(kernel, folder);
  const errors = openSync(join(folder, "qemu.log"), "w", 0o600);
  const qemu = [
    "qemu-system-x86_64",
    ...hardware(options, consoleLog, sockets),
    ...["-kernel", kernel.image, "-initrd", initramfs, "-append", commandLine(options, kernel.base)],
  ];
  const [program = "", ...args] = options.detached ? qemu : ["setpriv", "--pdeathsig", "KILL", "--", ...qemu];
  const child = spawn(program, args, { stdio: ["ignore", errors, errors], detached: options.detached === true });
  closeSync(errors);
  const end = async () => {
    await kill(child);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const channel = await reach(child, sockets.agent, options.bootTimeoutMs ?? 120_000);
    const lifetime = setTimeout(() => child.kill("SIGKILL"), options.lifetimeMs ?? 20 * 60_000);
    lifetime.unref();
    child.once("exit", () => clearTimeout(lifetime));
    if (options.detached) child.unref();
    const bootMs = Math.round(performance.now() - startedAt);
    const address = { agentSocket: sockets.agent, shellSocket: sockets.shell, consoleLog, bootMs };
    return new Vm({ ...address, pid: child.pid ?? 0, release: kernel.release }, channel, end);
  } catch (err) {
    const said = existsSync(join(folder, "qemu.log")) ? readFileSync(join(folder, "qemu.log"), "utf8") : "";
    await end();
    const reason = err instanceof Error ? err.message : String(err);
    throw new Error(`boot the VM: ${reason}\n${said}${consoleTail(consoleLog)}`, { cause: err });
  }
}

function hardware(options: BootOptions, consoleLog: string, sockets: { agent: string; shell: string }): string[] {
  const socket = (id: string, path: string) => ["-chardev", `socket,id=${id},path=${path},server=on,wait=off`];
  const disk = options.disk ? diskOf(options.disk, options.diskLog) : [];
  return [
    ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"],
    ...["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2"],
    ...["-m", String(options.memoryMiB ?? 3072)],
    ...["-chardev", `file,id=console,path=${consoleLog}`, "-serial", "chardev:console"],
    ...["-device", "virtio-serial-pci"],
    ...[...socket("agent", sockets.agent), "-device", "virtserialport,chardev=agent,name=minke.agent"],
    ...[...socket("shell", sockets.shell), "-device", "virtconsole,chardev=shell,name=minke.shell"],
    ...["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"],
    ...disk,
  ];
}

function diskOf(file: string, log: string | undefined): string[] {
  const plain = ["-drive", `file=${file},if=none,id=disk,format=raw,cache=writeback`];
  const logged = [
    ...["-blockdev", `driver=file,filename=${file},node-name=file`],
    ...["-blockdev", `driver=file,filename=${log},node-name=log`],
    ...["-blockdev", "driver=blklogwrites,node-name=disk,file=file,log=log"],
  ];
  return [...(log ? logged : plain), "-device", "virtio-blk-pci,drive=disk,discard=off,write-zeroes=off"];
}

function commandLine(options: BootOptions, kernelBase: string): string {
  return [
    // An own command line comes first: what stands last is what the guest reads its settings from.
    options.append ?? "",
    "tsc=reliable console=ttyS0 loglevel=5 panic=-1 mitigations=off random.trust_cpu=on",
    "apparmor=1 security=apparmor cgroup_no_v1=all psi=1",
    `minke.checkout=${CHECKOUT} minke.modules=${kernelBase}/lib/modules minke.disk=${options.disk ? "vda" : ""}`,
  ].join(" ");
}

/** Connects and waits for the first command's answer: then the guest is up. */
async function reach(child: ChildProcess, agentSocket: string, timeoutMs: number): Promise<Channel> {
  let ended: string | undefined;
  child.once("error", (error) => (ended = error.message));
  child.once("exit", (code, signal) => (ended = `QEMU ended with ${signal ?? code}`));
  const deadline = performance.now() + timeoutMs;
  let channel: Channel;
  for (;;) {
    if (ended) throw new Error(ended);
    // It is there a moment before QEMU listens on it.
    const opened = existsSync(agentSocket) ? await Channel.open(agentSocket).catch(() => undefined) : undefined;
    if (opened) {
      channel = opened;
      break;
    }
    if (performance.now() > deadline) throw new Error("QEMU made no socket");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  try {
    await channel.run("true", Math.max(1, deadline - performance.now()));
    return channel;
  } catch (err) {
    channel.close();
    throw ended ? new Error(ended) : err;
  }
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await gone;
}

function consoleTail(file: string): string {
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  return `the end of the console (${file}):\n${text.trimEnd().split("\n").slice(-25).join("\n")}`;
}
