/**
 * What many operations leave in a monitor: nothing. Needs root.
 */
import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { anonymousKib, MonitorBench, until } from "../harness/monitor.js";
import { requires } from "../harness/requires.js";
import { scaled } from "./scale.js";

const EXECS = scaled(10_000);
const ATTACHES = scaled(1_000);
const CONTAINERS = scaled(1_000);

let bench: MonitorBench;
beforeEach(async (context) => {
  requires("root", "cgroup2")(context);
  bench = await MonitorBench.start();
});
afterEach(async () => {
  await bench?.stop();
});

test("execs, attaches and containers leave no memory, descriptor, cgroup or process behind", async () => {
  const container = await bench.start(["/bin/cat"], { stdin: true });
  const pid = bench.child.pid as number;
  const work = async (share: number): Promise<void> => {
    for (let round = 0; round < EXECS * share; round += 1) await bench.capture(container, ["/bin/echo", "x"]);
    for (let round = 0; round < ATTACHES * share; round += 1) {
      const stream = await bench.client.openStream({ containerId: container.containerId });
      stream.stdin?.write("x\n");
      await new Promise((resolve) => stream.stdout.once("data", resolve));
      stream.close();
    }
    for (let round = 0; round < CONTAINERS * share; round += 1) {
      const { params } = await bench.run(["/bin/echo", "x"]);
      await bench.client.forget({ containerId: params.containerId });
    }
  };
  const openFds = (): number => readdirSync(`/proc/${pid}/fd`).length;
  await work(0.1);
  await sleep(1200);
  const before = { fds: openFds(), kib: anonymousKib(pid) };
  await work(1);
  await until(() => openFds() === before.fds);
  // It gives memory back when it has been idle for a while.
  await until(() => anonymousKib(pid) <= before.kib + 8);
  expect(readdirSync(container.cgroup).filter((name) => name.startsWith("exec-"))).toEqual([]);
  expect((await bench.client.list()).containers).toHaveLength(1);
});
