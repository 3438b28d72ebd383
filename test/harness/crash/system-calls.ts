/**
 * What a program and its children did to files, as strace saw it: one call after another, in the
 * order in which they ended. Knows no file system; disk-model.ts gives the calls their meaning.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** Every call that changes what a file system holds, or makes it durable. */
const TRACED = [
  "open,openat,openat2,creat",
  "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,splice,fallocate,truncate,ftruncate",
  "fsync,fdatasync,sync,syncfs,sync_file_range,msync",
  "mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat",
  "rename,renameat,renameat2,unlink,unlinkat,rmdir",
  "chmod,fchmod,fchmodat,?fchmodat2,chown,lchown,fchown,fchownat,utime,utimes,futimesat,utimensat",
  "setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr",
].join(",");

export interface SystemCall {
  readonly pid: number;
  readonly name: string;
  readonly args: readonly string[];
  /** The number that it returned; failed calls are not among them. */
  readonly result: string;
  /** How many calls had ended when this one began: only those can it have made durable. */
  readonly begunAfter: number;
}

/** Runs a command to its end under strace. @throws Error where the command fails */
export function traceCommand(command: readonly string[], traceFile: string): SystemCall[] {
  const options = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", "1048576", "-e", `trace=${TRACED}`, "-o", traceFile];
  const { status, stderr, error } = spawnSync("strace", [...options, "--", ...command], {
    encoding: "utf8",
    timeout: 110_000,
    maxBuffer: 1 << 28,
  });
  if (status !== 0) throw new Error(`strace ${command.join(" ")}: ${error?.message ?? `exit ${status}`}\n${stderr}`);
  return parseTrace(readFileSync(traceFile, "latin1"));
}

/**
 * A wrapper under which whoever makes the call for the given time is killed: the command, or what it starts.
 *
 * @param when the count of the call in each process; strace(1), "inject"
 */
export function killedAt(call: string, when: number): string[] {
  return ["strace", "-f", "-o", "/dev/null", "-e", `trace=${call}`, "-e", `inject=${call}:signal=KILL:when=${when}`];
}

export function parseTrace(text: string): SystemCall[] {
  const calls: SystemCall[] = [];
  const begun = new Map<number, { text: string; after: number }>();
  for (const line of text.split("\n")) {
    const [, pidText = "", said = ""] = /^(\d+)\s+(.*)$/.exec(line) ?? [];
    if (said === "" || said.startsWith("+++") || said.startsWith("---")) continue;
    const pid = Number(pidText);
    const unfinished = /^(.*?)\s*<unfinished \.\.\.>$/.exec(said);
    if (unfinished) {
      begun.set(pid, { text: unfinished[1] ?? "", after: calls.length });
      continue;
    }
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(said);
    const begin = resumed ? begun.get(pid) : undefined;
    if (resumed) begun.delete(pid);
    const call = parseCall(pid, begin ? begin.text + (resumed?.[1] ?? "") : said, begin?.after ?? calls.length);
    if (call) calls.push(call);
  }
  return calls;
}

function parseCall(pid: number, text: string, begunAfter: number): SystemCall | undefined {
  const parts = /^(\w+)\((.*)\)\s+= (-?\w+.*)$/.exec(text);
  if (!parts) throw new Error(`strace wrote what is no call: ${text.slice(0, 300)}`);
  const [, name = "", args = "", result = ""] = parts;
  if (result.startsWith("-") || result.startsWith("?")) return undefined;
  return { pid, name, args: splitArguments(args), result, begunAfter };
}

/** At the commas that are in no bracket. Strings hold only `\x..`, so no comma either. */
function splitArguments(text: string): string[] {
  const args: string[] = [];
  let depth = 0;
  let from = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text[i] as string;
    if ("{[(".includes(char)) depth++;
    else if ("}])".includes(char)) depth--;
    else if (char === "," && depth === 0) {
      args.push(text.slice(from, i).trim());
      from = i + 1;
    }
  }
  args.push(text.slice(from).trim());
  return args;
}

/** The bytes of a string argument. */
export function bytesOf(argument: string): Buffer {
  const text = /^"((?:\\x[0-9a-f]{2})*)"(?!\.\.\.)/.exec(argument)?.[1];
  if (text === undefined) throw new Error(`not a whole string: ${argument.slice(0, 100)}`);
  return Buffer.from(text.replaceAll("\\x", ""), "hex");
}

/** The path that `-y` gives a descriptor: `5<…>`, `AT_FDCWD<…>`. `undefined`: none, or a deleted file. */
export function pathOfFd(argument: string): string | undefined {
  const match = /^\w+<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?/.exec(argument);
  return match && !match[2] ? Buffer.from((match[1] ?? "").replaceAll("\\x", ""), "hex").toString() : undefined;
}
