/**
 * Loads the addon and turns its failures into RuntimeErrors.
 *
 * Only this folder sees the module. The addon rejects with `op` and `errno`; the sentence,
 * the kind and the hint are made here.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import type { ErrorCode } from "../base/error-codes.js";
import { type ErrorKind, RuntimeError } from "../base/errors.js";
import { errnoHint } from "./errno-hints.js";
import type { GrpcSession } from "./grpc-session.js";

/** Descriptors cross as numbers, -1 for none; lists of fixed meaning as arrays. */
interface Addon {
  createSandboxNamespaces(
    network: boolean,
    ipc: boolean,
    uts: boolean,
    hostname: string,
    domainname: string,
    sysctls: string,
    uidMap: string,
    gidMap: string,
    shmBytes: number,
    ...link: readonly (Buffer | number | string)[]
  ): [Promise<[number, number, number, number, number, number]>, Promise<[Buffer, Buffer]>];
  netlinkOpen(protocol: number, netns: number): Promise<number>;
  netlinkTransact(fd: number, request: Buffer, expectedEnds: number): Promise<Buffer>;
  deleteLinks(request: Buffer, ...names: readonly string[]): Promise<Buffer>;
  readKernelFiles(...paths: readonly string[]): Promise<readonly (string | undefined)[]>;
  processesBelow(...cgroups: readonly string[]): Promise<readonly (readonly number[])[]>;
  countDescriptors(...pids: readonly string[]): Promise<readonly (readonly [all: number, sockets: number])[]>;
  mountTmpfs(path: string, sizeBytes: number, mode: number): Promise<void>;
  unmount(path: string, detach: boolean): Promise<void>;
  bindMount(source: string, target: string): Promise<void>;
  makeShared(path: string): Promise<void>;
  probeIdmappedLayers(above: string, below: string): Promise<void>;
  pidfdOpen(pid: number): number;
  pidfdSendSignal(pidfd: number, signal: number): void;
  pidfdHasExited(pidfd: number): boolean;
  waitForProcess(pidfd: number, timeoutMs: number): Promise<boolean>;
  reapChild(pidfd: number): [number, number] | undefined;
  processStat(pid: number): string;
  giveBackMemory(): void;
  spawnMonitor(
    executable: number,
    cgroup: number,
    log: number,
    control: number,
    net: number,
    ipc: number,
    uts: number,
    shm: number,
    user: number,
    ...args: string[]
  ): Promise<[number, number, number]>;
  forkMonitor(
    server: number,
    sequence: number,
    sandboxId: string,
    socketPath: string,
    cgroup: number,
    log: number,
    net: number,
    ipc: number,
    uts: number,
    shm: number,
    user: number,
  ): number;
  spawnProgram(
    hasInput: boolean,
    hasErrors: boolean,
    path: string,
    ...args: string[]
  ): Promise<[number, number, number, number]>;
  sealedExecutable(path: string, name: string): Promise<number>;
  writeAtomically(path: string, bytes: Buffer, mode: number, durable: boolean): Promise<void>;
  spreadSubdirectories(path: string): void;
  runFileSteps(
    ...steps: (number | string | Buffer | undefined)[]
  ): Promise<(Error & { step: number; hasSpare: boolean }) | boolean>;
  removeTree(path: string): Promise<void>;
  removeCgroups(path: string): Promise<boolean>;
  lockFile(path: string): Promise<number>;
  readXattr(path: string, name: string): Promise<Buffer | undefined>;
  openDirectory(path: string): number;
  probeKernel(): Promise<string>;
  dialInNetns(netns: number, port: number, timeoutMs: number): Promise<number>;
  GrpcSession: new (maxMessageBytes: number) => GrpcSession;
  netDevicesOf(netnsPath: string): Promise<string>;
  bindProbe(protocol: number, address: string, port: number): void;
}

/** `build/Release/` of the package: two folders up, from `src/native` and from `dist/native`. */
export function builtFile(name: string): string {
  return fileURLToPath(new URL(`../../build/Release/${name}`, import.meta.url));
}

let loaded: Addon | undefined;

/** @throws RuntimeError `failed-precondition` ADDON_NOT_BUILT: missing, or built for another machine */
export function addon(): Addon {
  if (loaded) return loaded;
  const file = builtFile("minke.node");
  if (!existsSync(file)) {
    throw new RuntimeError(`load "${file}": it is not built (run: npm run build:native)`, {
      kind: "failed-precondition",
      code: "ADDON_NOT_BUILT",
    });
  }
  try {
    loaded = createRequire(import.meta.url)(file) as Addon;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new RuntimeError(`load "${file}": ${text} (build it again: npm run build:native)`, {
      kind: "failed-precondition",
      code: "ADDON_NOT_BUILT",
      cause,
    });
  }
  return loaded;
}

const KIND_BY_ERRNO: Readonly<Record<string, [ErrorKind, ErrorCode]>> = {
  EACCES: ["permission-denied", "PERMISSION_DENIED"],
  EDQUOT: ["resource-exhausted", "NO_SPACE"],
  EMFILE: ["resource-exhausted", "TOO_MANY_FILES"],
  ENFILE: ["resource-exhausted", "TOO_MANY_FILES"],
  EPERM: ["permission-denied", "PERMISSION_DENIED"],
};

/** Where ENOSPC means what it says; of mount calls it is the limit of mounts. */
const FILE_CALLS: ReadonlySet<string> = new Set([
  "open",
  "openat",
  "openat2",
  "write",
  "fsync",
  "fdatasync",
  "rename",
  "renameat",
  "mkdir",
  "mkdirat",
]);

// EAGAIN and EWOULDBLOCK, EOPNOTSUPP and ENOTSUP share a number: the first name of each stands.
const NAME_BY_ERRNO = new Map<number, string>();
for (const [name, errno] of [
  ...Object.entries({ EAGAIN: 11, EOPNOTSUPP: 95 }),
  ...Object.entries(constants.errno),
  // include/uapi/asm-generic/errno.h: what Node does not list
  ...Object.entries({
    ENONET: 64,
    ENOTUNIQ: 76,
    ESOCKTNOSUPPORT: 94,
    EPFNOSUPPORT: 96,
    EUCLEAN: 117,
    ENOMEDIUM: 123,
    EKEYREJECTED: 129,
  }),
]) {
  if (!NAME_BY_ERRNO.has(errno)) NAME_BY_ERRNO.set(errno, name);
}

/** The errno name of a positive errno value: `ENOENT`. */
export function errnoName(errno: number): string {
  return NAME_BY_ERRNO.get(errno) ?? `errno ${errno}`;
}

/** A failure of a system call as a RuntimeError with its hint. @param errno positive */
export function syscallError(clause: string, syscall: string, errno: number, cause?: unknown): RuntimeError {
  const name = errnoName(errno);
  const hint = errnoHint(syscall, name);
  const isFull = name === "ENOSPC" && FILE_CALLS.has(syscall);
  const [kind, code] = KIND_BY_ERRNO[isFull ? "EDQUOT" : name] ?? ["internal", "INTERNAL"];
  return new RuntimeError(`${clause}: ${syscall}: ${name}${hint === undefined ? "" : ` (${hint})`}`, {
    kind,
    code,
    syscall: { name: syscall, errno: name },
    cause,
  });
}

/** What the addon said of a failure, as a RuntimeError. */
export function toNativeError(err: unknown, clause: string): unknown {
  if (!(err instanceof Error) || !("op" in err) || !("errno" in err)) return err;
  return syscallError(clause, String(err.op), Number(err.errno), err);
}

/** Calls the addon; a failure reads `<clause>: <system call>: <ERRNO> (<hint>)`. */
export function call<T>(clause: string, work: (native: Addon) => T): T {
  const native = addon();
  try {
    return work(native);
  } catch (err) {
    throw toNativeError(err, clause);
  }
}

/** As `call`, for what settles later. */
export async function callAsync<T>(clause: string, work: (native: Addon) => Promise<T>): Promise<T> {
  const native = addon();
  try {
    return await work(native);
  } catch (err) {
    throw toNativeError(err, clause);
  }
}
