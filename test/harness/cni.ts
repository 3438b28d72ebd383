/**
 * CNI plugins of our own: scripts that write down how they were called, and fail, hang or print
 * nonsense where a test asks for it.
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** How a plugin behaves at a command; else it does its work. */
export type Behaviour = "fail" | "hang" | "garbage" | "silent" | "crash" | "retry";

/** One call, as the plugin saw it. */
export interface PluginCall {
  readonly type: string;
  readonly command: string;
  readonly containerId: string;
  readonly netns: string;
  readonly args: string;
  readonly config: Record<string, unknown>;
}

// `keep` holds one file for each address that is given out, as an IPAM plugin does.
const SCRIPT = `#!/bin/sh
here=$(dirname "$0")
type=$(basename "$0")
config=$(cat)
printf '%s\\t%s\\t%s\\t%s\\t%s\\t%s\\n' "$type" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_ARGS" "$config" >> "$here/calls"
case "$(cat "$here/$type.$CNI_COMMAND" 2>/dev/null)" in
  fail) echo '{"cniVersion":"1.0.0","code":7,"msg":"no good","details":"the switch said no"}'; echo "warn: a word" >&2; exit 1;;
  retry) echo '{"cniVersion":"1.1.0","code":11,"msg":"later"}'; exit 1;;
  hang) sleep 1000 & echo $! > "$here/hanging"; wait;;
  garbage) printf 'well\\033[31m, hello'; exit 0;;
  silent) exit 0;;
  crash) kill -SEGV $$;;
esac
case "$CNI_COMMAND" in
  ADD)
    # An address is kept before it is told, as by any plugin that may die in between.
    touch "$here/keep.$CNI_CONTAINERID"
    [ -z "$CNI_NETNS" ] || [ -e "$CNI_NETNS" ] || exit 3
    cat "$here/result";;
  DEL) rm -f "$here/keep.$CNI_CONTAINERID";;
esac
exit 0
`;

export class TestPlugins {
  /** For `plugin-dirs`. */
  readonly dir: string;

  constructor(dir: string, types: readonly string[]) {
    this.dir = dir;
    mkdirSync(dir, { recursive: true });
    for (const type of types) {
      writeFileSync(join(dir, type), SCRIPT);
      chmodSync(join(dir, type), 0o755);
    }
    this.answer({
      cniVersion: "1.0.0",
      interfaces: [{ name: "eth0", mac: "02:00:00:00:00:01", sandbox: "/x" }],
      ips: [{ address: "10.9.8.7/24", gateway: "10.9.8.1", interface: 0 }],
      routes: [{ dst: "0.0.0.0/0" }],
      dns: { nameservers: ["10.9.8.53"], search: ["cluster.local"] },
    });
  }

  /** What every plugin prints at ADD. */
  answer(result: object): void {
    writeFileSync(join(this.dir, "result"), JSON.stringify(result));
  }

  behave(type: string, command: string, behaviour: Behaviour | undefined): void {
    const file = join(this.dir, `${type}.${command}`);
    if (behaviour === undefined) rmSync(file, { force: true });
    else writeFileSync(file, behaviour);
  }

  get calls(): PluginCall[] {
    return read(join(this.dir, "calls"))
      .split("\n")
      .filter(Boolean)
      .map((line) => {
        const [type = "", command = "", containerId = "", netns = "", args = "", config = ""] = line.split("\t");
        return { type, command, containerId, netns, args, config: JSON.parse(config) as Record<string, unknown> };
      });
  }

  /** `ADD first, ADD second, DEL second`. */
  get order(): string[] {
    return this.calls.map(({ command, type }) => `${command} ${type}`);
  }

  forgetCalls(): void {
    rmSync(join(this.dir, "calls"), { force: true });
  }

  hasAddress(containerId: string): boolean {
    return existsSync(join(this.dir, `keep.${containerId}`));
  }

  /** Of the child that a hanging plugin has started. */
  get hangingPid(): number {
    return Number(read(join(this.dir, "hanging")));
  }
}

function read(file: string): string {
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}
