/**
 * The daemon inside the machine that the files of a run share, since its start and its images take half a
 * minute there: with every runtime handler of the tests, and its root on a file system that can map ids.
 */
import { existsSync } from "node:fs";
import { LOOP_DEVICE } from "./loop-device.js";
import type { Vm } from "./machine/boot.js";
import { CHECKOUT } from "./machine/host.js";
import { quoted } from "./quoted.js";

/** The daemon loads in five seconds here, in a minute while the host's two cores are shared by ten. */
export const SLOW_MS = 240_000;
/** For a hook that calls sharedDaemon(). */
export const DAEMON_MS = 3 * SLOW_MS;
/** What it says. */
export const LOG = "/tmp/minke-daemon.log";
/** Files of tests on an ext4 file system: before Linux 6.3 the ids of a tmpfs cannot be mapped. */
export const DATA = "/var/lib/minke/vm-data";
/** Runtime handlers by name: Debian's. */
export const HANDLERS = { crun: "/usr/bin/crun", runc: "/usr/sbin/runc" } as const;

const CURL = "curl -sf --unix-socket /run/minke/api.sock";
const PID_FILE = "/run/vm/daemon.pid";
const CONFIG = "/run/vm/daemon.toml";
const READY = "/run/vm/daemon-ready";
const FIXTURES = `${CHECKOUT}/.cache/fixtures/layout`;

/**
 * Has it run with the fixture images, and nothing of what another file made: what that left is waited for,
 * and is an error.
 */
export async function sharedDaemon(vm: Vm): Promise<void> {
  if ((await vm.run(`[ -e ${READY} ] && ${CURL} -o /dev/null http://localhost/healthz`)).code !== 0) {
    await makeStore(vm);
    await startDaemon(vm);
    await loadImages(vm, FIXTURES);
    await vm.output(`touch ${READY}`);
  }
  await vm.output(
    `for i in $(seq 300); do pgrep minke-monitor || ip -o link show type veth | grep . || exit 0; sleep 0.2; done >/tmp/left
    echo "another file left monitors or links:"; tail -3 /tmp/left; exit 1`,
    { timeoutMs: SLOW_MS },
  );
}

/** Its settings, and ext4 for its root: a disk that the machine was given, or a file. */
async function makeStore(vm: Vm): Promise<void> {
  const tables = Object.entries(HANDLERS).map(([name, path]) => `[runtime-handlers.${name}]\npath = "${path}"\n`);
  await vm.output(
    `cat >${CONFIG} <<<${quoted(tables.join(""))}
    if [ $(findmnt -no FSTYPE /var/lib/minke | tail -1) = tmpfs ]; then
      # The next loop device is the store's: the first one is the tests'.
      {${LOOP_DEVICE}
      } >/dev/null
      truncate -s 1G /tmp/store.disk && mkfs.ext4 -q /tmp/store.disk
      mount -o loop /tmp/store.disk /var/lib/minke || exit
    fi
    mkdir -p -m 700 ${DATA}`,
    { timeoutMs: SLOW_MS },
  );
}

/** Starts it and waits until it answers. */
export async function startDaemon(vm: Vm): Promise<void> {
  await vm.output(
    `setsid node dist/cli/main.js daemon --config ${CONFIG} >>${LOG} 2>&1 & echo $! >${PID_FILE}
    for i in $(seq 800); do ${CURL} http://localhost/healthz && exit; sleep 0.2; done
    cat ${LOG}; exit 1`,
    { timeoutMs: SLOW_MS },
  );
}

/** By SIGKILL, and gone. */
export async function killDaemon(vm: Vm): Promise<void> {
  await vm.output(`pid=$(cat ${PID_FILE}); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done`, {
    timeoutMs: SLOW_MS,
  });
}

/** Loads an OCI layout. @param path absolute */
export async function loadImages(vm: Vm, path: string): Promise<void> {
  if (!existsSync(path)) throw new Error(`no images at ${path}: npm test makes them`);
  const body = quoted(JSON.stringify({ path }));
  const request = `-H 'content-type: application/json' -d ${body} http://localhost/minke/v1/images/load`;
  await vm.output(`${CURL} ${request} >/dev/null`, { timeoutMs: SLOW_MS });
}
