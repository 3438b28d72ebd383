/** The daemon's own metrics, as Prometheus reads them. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { createMetricsServer, DaemonMetrics, listenOnPort } from "../../../src/api/daemon-metrics.js";
import type { RuntimeEvent } from "../../../src/runtime/runtime.js";

function metrics() {
  let tell: (event: RuntimeEvent) => void = () => undefined;
  const made = new DaemonMetrics({
    version: '1"x',
    runtime: {
      listSandboxes: (owner) => (owner === "cri" ? [{ state: "ready" }, { state: "ready" }] : []) as never,
      listContainers: () => [],
      subscribe: (listener) => {
        tell = listener;
        return () => undefined;
      },
    },
    images: () => 7,
    nriPlugins: () => 1,
  });
  onTestFinished(() => made.close());
  return { made, tell: (event: Partial<RuntimeEvent>) => tell(event as RuntimeEvent) };
}

const valueOf = (text: string, series: string) =>
  Number(
    text
      .split("\n")
      .find((line) => line.startsWith(`${series} `))
      ?.slice(series.length + 1),
  );

test("counts what there is, what happened and what was asked", async () => {
  const { made, tell } = metrics();
  tell({ type: "sandbox-ready", owner: "cri" });
  tell({ type: "sandbox-ready", owner: "cri" });
  made.criRequest("listContainers", "ok", 4);
  made.criRequest("listContainers", "not-found", 70_000);
  const text = await made.render();
  expect(valueOf(text, 'minke_sandboxes{owner="cri",state="ready"}')).toBe(2);
  expect(valueOf(text, "minke_images")).toBe(7);
  expect(valueOf(text, 'minke_runtime_events_total{type="sandbox-ready",owner="cri"}')).toBe(2);
  expect(valueOf(text, 'minke_cri_requests_total{method="listContainers",outcome="not-found"}')).toBe(1);
  const bucket = (le: string) =>
    valueOf(text, `minke_cri_request_duration_seconds_bucket{method="listContainers",le="${le}"}`);
  expect([bucket("0.0025"), bucket("0.005"), bucket("60"), bucket("+Inf")]).toEqual([0, 1, 1, 2]);
  expect(valueOf(text, 'minke_cri_request_duration_seconds_sum{method="listContainers"}')).toBeCloseTo(70.004);
  expect(valueOf(text, "process_resident_memory_bytes")).toBeGreaterThan(1_000_000);
});

test("every line is a comment or a series with a number, and labels are escaped", async () => {
  const { made } = metrics();
  made.criRequest("version", "ok", 1);
  const lines = (await made.render()).trimEnd().split("\n");
  for (const line of lines) {
    expect(line).toMatch(/^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="(\\.|[^"\\])*",?)+\})? [0-9.e+-]+)$/);
  }
  expect(lines).toContain('minke_build_info{version="1\\"x"} 1');
});

test("owners and states of which there is none are 0, not missing", async () => {
  const text = await metrics().made.render();
  expect(valueOf(text, 'minke_sandboxes{owner="pod",state="stopped"}')).toBe(0);
  expect(valueOf(text, 'minke_containers{owner="cri",state="exited"}')).toBe(0);
});

test("the time of the start is one and the same in every answer", async () => {
  const { made } = metrics();
  const times = [];
  for (let i = 0; i < 20; i++) times.push(valueOf(await made.render(), "process_start_time_seconds"));
  expect(new Set(times).size).toBe(1);
  expect(Math.abs((times[0] ?? 0) - (Date.now() / 1000 - process.uptime()))).toBeLessThan(60);
});

test("every family has its help and type once, ahead of its series, and only summaries have quantiles", async () => {
  const { made, tell } = metrics();
  tell({ type: "sandbox-ready", owner: "cri" });
  made.criRequest("version", "ok", 1);
  made.criRequest("status", "ok", 1);
  const types = new Map<string, string>();
  let family = "";
  for (const line of (await made.render()).trimEnd().split("\n")) {
    const [, comment, name = "", rest = ""] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
    if (comment === "HELP") {
      expect(types.has(name)).toBe(false);
      family = name;
    } else if (comment === "TYPE") {
      expect(name).toBe(family);
      types.set(name, rest);
      expect(name.endsWith("_total")).toBe(rest === "counter");
    } else {
      const type = types.get(family) ?? "";
      const suffixes = { histogram: "(_bucket|_sum|_count)", summary: "(_sum|_count)?" }[type] ?? "";
      expect(line).toMatch(new RegExp(`^${family}${suffixes}[{ ]`));
      expect(line.includes("quantile=") && type !== "summary").toBe(false);
    }
  }
  expect(types.size).toBeGreaterThan(10);
});

test("are served at /metrics alone; a taken port is SOCKET_IN_USE", async () => {
  const server = createMetricsServer(metrics().made);
  onTestFinished(() => server.close().closeAllConnections());
  await listenOnPort(server, { host: "127.0.0.1", port: 0 });
  const { port } = server.address() as AddressInfo;
  const response = await fetch(`http://127.0.0.1:${port}/metrics`);
  expect(response.headers.get("content-type")).toContain("version=0.0.4");
  expect(await response.text()).toContain("minke_nri_plugins 1");
  expect((await fetch(`http://127.0.0.1:${port}/metrics`, { method: "HEAD" })).status).toBe(200);
  expect((await fetch(`http://127.0.0.1:${port}/`)).status).toBe(404);
  expect((await fetch(`http://127.0.0.1:${port}/metrics`, { method: "POST", body: "x" })).status).toBe(404);
  const second = createMetricsServer(metrics().made);
  await expect(listenOnPort(second, { host: "127.0.0.1", port })).rejects.toMatchObject({ code: "SOCKET_IN_USE" });
  server.closeAllConnections();
  server.close();
  await once(server, "close").catch(() => undefined);
});
