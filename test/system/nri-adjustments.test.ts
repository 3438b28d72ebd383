/** What NRI plugins want of containers, against the whole daemon: adjustments as they are made, and updates. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { LinuxContainerResources } from "../../src/cri/generated/runtime/v1/api.js";
import { nriSuite } from "../harness/nri-suite.js";
import { cgroup2Mount } from "../harness/requires.js";

const nri = nriSuite();

describe("adjustments", () => {
  test("of arguments, environment, mounts, devices, limits and hooks are what the container has", async () => {
    writeFileSync(join(nri.folder, "file"), "from the host");
    await nri.plugin({
      methods: {
        CreateContainer: () => ({
          adjust: {
            annotations: { "nri/note": "x" },
            env: [
              { key: "ADDED", value: "1" },
              { key: "-GONE", value: "" },
            ],
            args: ["sleep", "2000"],
            mounts: [
              { destination: "/nri", type: "bind", source: nri.folder, options: ["ro"] },
              { destination: "-/dev/mqueue" },
            ],
            rlimits: [{ type: "RLIMIT_NOFILE", hard: 512n, soft: 256n }],
            hooks: {
              createRuntime: [
                {
                  path: "/bin/sh",
                  args: ["sh", "-c", `cat > ${nri.folder}/state; test -f ${nri.folder}/state`],
                  env: [],
                },
              ],
            },
            linux: {
              devices: [{ path: "/dev/nri-null", type: "c", major: 1n, minor: 3n }],
              oomScoreAdj: { value: 777n },
              sysctl: { "net.ipv4.ip_unprivileged_port_start": "99" },
              ioPriority: { class: 2, priority: 6 },
            },
          },
        }),
      },
    });
    const id = await nri.cri.startContainer(await nri.sandbox(), { envs: [{ key: "GONE", value: Buffer.from("1") }] });
    const script = `echo $ADDED-$GONE; cat /nri/file; touch /nri/x 2>/dev/null && echo written; echo
      ulimit -Sn; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start; ls -l /dev/nri-null;
      for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done | grep -c '^sleep 2000 $'; grep -c mqueue /proc/mounts; echo x >/dev/nri-null && echo usable`;
    const output = await nri.cri.output(id, "sh", "-c", script);
    expect(output.split("\n")).toEqual([
      "1-",
      "from the host",
      "256",
      "777",
      "99",
      expect.stringContaining("1,   3"),
      "1",
      "0",
      "usable",
      "",
    ]);
    expect(JSON.parse(readFileSync(join(nri.folder, "state"), "utf8"))).toMatchObject({ id, status: "creating" });
  });

  test("of a hook that fails in the container refuse its start, which says so", async () => {
    const hooks = { startContainer: [{ path: "/bin/false" }] };
    await nri.plugin({ methods: { CreateContainer: () => ({ adjust: { hooks } }) } });
    const containerId = await nri.cri.createContainer(await nri.sandbox());
    expect(await nri.cri.refusal("startContainer", { containerId })).toMatchObject({ status: 9, code: "HOOK_FAILED" });
  });

  test("of CDI devices are injected, and one that there is not refuses the container", async () => {
    let name = "minke.test/thing=one";
    await nri.plugin({ methods: { CreateContainer: () => ({ adjust: { CDIDevices: [{ name }] } }) } });
    const pod = await nri.sandbox();
    expect(await nri.cri.output(await nri.cri.startContainer(pod), "sh", "-c", "echo $CDI")).toBe("injected\n");
    name = "minke.test/thing=two";
    await expect(nri.cri.createContainer(pod)).rejects.toMatchObject({ details: expect.stringContaining("thing=two") });
  });

  test("of resources are in the container's status, and each later plugin sees them", async () => {
    await nri.plugin({
      index: "10",
      methods: { CreateContainer: () => ({ adjust: { linux: { resources: { cpu: { shares: { value: 333n } } } } } }) },
    });
    const second = await nri.plugin({ index: "20" });
    const id = await nri.cri.createContainer(await nri.sandbox());
    expect((await nri.cri.status(id)).resources?.linux?.cpuShares).toBe(333n);
    const seen = second.calls.find(({ method }) => method === "CreateContainer")?.request.container;
    expect(seen?.linux?.resources?.cpu?.shares).toEqual({ value: 333n });
  });

  test("of one thing by two plugins refuse the container, which leaves nothing", async () => {
    const methods = { CreateContainer: () => ({ adjust: { env: [{ key: "SAME", value: "1" }] } }) };
    await nri.plugin({ index: "10", name: "first", methods });
    await nri.plugin({ index: "20", name: "second", methods });
    const pod = await nri.sandbox();
    const podSandboxId = pod;
    await expect(nri.cri.createContainer(podSandboxId)).rejects.toMatchObject({
      details: expect.stringContaining('"10-first" and "20-second" both set Env "SAME"'),
    });
    expect((await nri.cri.call("listContainers")).containers).toEqual([]);
  });

  test("of what an earlier plugin set are taken over by one that removes it first", async () => {
    const set = (value: string, ...more: object[]) => ({
      CreateContainer: () => ({ adjust: { env: [...more, { key: "SAME", value }] } }),
    });
    await nri.plugin({ index: "10", methods: set("first") });
    await nri.plugin({ index: "20", methods: set("second", { key: "-SAME", value: "" }) });
    const id = await nri.cri.startContainer(await nri.sandbox());
    expect(await nri.cri.output(id, "sh", "-c", "echo $SAME")).toBe("second\n");
  });

  test("of the cgroup are made, and gone with the container; one that is there already is refused", async () => {
    const cgroup = `/${nri.daemon.cgroupRoot}/nri-test`;
    await nri.plugin({ methods: { CreateContainer: () => ({ adjust: { linux: { cgroupsPath: cgroup } } }) } });
    const pod = await nri.sandbox();
    const id = await nri.cri.startContainer(pod);
    const dir = join(cgroup2Mount() ?? "", cgroup);
    expect(readFileSync(join(dir, "cgroup.procs"), "utf8")).toMatch(/^\d+\n$/);
    await expect(nri.cri.createContainer(pod)).rejects.toMatchObject({ details: expect.stringContaining("already") });
    await nri.cri.call("removeContainer", { containerId: id });
    expect(existsSync(dir)).toBe(false);
  });

  test("that a validator rejects refuse the container with its reason and owners", async () => {
    await nri.plugin({
      index: "10",
      name: "adjuster",
      methods: { CreateContainer: () => ({ adjust: { env: [{ key: "BAD", value: "1" }] } }) },
    });
    const validator = await nri.plugin({
      index: "90",
      events: 1 << 13,
      methods: { ValidateContainerAdjustment: () => ({ reject: true, reason: "BAD is bad" }) },
    });
    await expect(nri.cri.createContainer(await nri.sandbox())).rejects.toMatchObject({
      details: expect.stringContaining("BAD is bad"),
    });
    const request = validator.calls.find(({ method }) => method === "ValidateContainerAdjustment")?.request;
    const id = request?.container?.id ?? "";
    expect(request?.adjust?.env).toEqual([{ key: "BAD", value: "1" }]);
    expect(request?.owners?.owners[id]?.compound[6]?.owners).toEqual({ BAD: "10-adjuster" });
    expect(request?.plugins?.map(({ index, name }) => `${index}-${name}`)).toEqual(["10-adjuster", "90-test"]);
  });
});

describe("updates", () => {
  test("of a pod's resources are asked of plugins: one that refuses leaves it as it is, a later plugin sees what is", async () => {
    let refuses = true;
    const one = await nri.plugin({
      methods: {
        UpdatePodSandbox: () => {
          if (refuses) throw new Error("too much");
        },
        PostUpdatePodSandbox: () => {
          throw new Error("too late");
        },
      },
    });
    const of = (shares: bigint) => LinuxContainerResources.fromPartial({ cpuShares: shares, cpuQuota: shares * 100n });
    const podSandboxId = await nri.sandbox({ linux: { overhead: of(10n), resources: of(256n) } });
    const update = { podSandboxId, overhead: of(20n), resources: of(512n) };
    const seen = async () => {
      const { request } = (await nri.plugin({ index: "20" })).calls[0] ?? {};
      const { podOverhead, podResources } = request?.pods?.find(({ id }) => id === podSandboxId)?.linux ?? {};
      return [podOverhead, podResources].map((found) => [found?.cpu?.shares?.value, found?.cpu?.quota?.value]);
    };
    expect(await nri.cri.refusal("updatePodSandboxResources", update)).toMatchObject({
      code: "NRI_PLUGIN_REFUSED",
      message: expect.stringContaining("too much"),
    });
    expect(await seen()).toEqual([
      [10n, 1000n],
      [256n, 25_600n],
    ]);
    refuses = false;
    await nri.cri.call("updatePodSandboxResources", update);
    expect(await seen()).toEqual([
      [20n, 2000n],
      [512n, 51_200n],
    ]);
    expect(one.heard).toEqual(["RunPodSandbox", "UpdatePodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox"]);
  });

  test("that a plugin makes of an update are what the container gets", async () => {
    const pod = await nri.sandbox();
    const containerId = await nri.cri.startContainer(pod);
    await nri.plugin({
      methods: {
        UpdateContainer: ({ container }) => ({
          update: [{ containerId: container?.id, linux: { resources: { cpu: { shares: { value: 444n } } } } }],
        }),
      },
    });
    await nri.cri.call("updateContainerResources", { containerId, linux: undefined, annotations: {} });
    expect((await nri.cri.status(containerId)).resources?.linux?.cpuShares).toBe(444n);
  });

  test("that nobody asked for are done, those that cannot be are answered, and evictions stop", async () => {
    const one = await nri.plugin();
    const pod = await nri.sandbox();
    const [first, second] = [await nri.cri.startContainer(pod), await nri.cri.startContainer(pod)];
    const shares = (containerId: string) => ({
      containerId,
      linux: { resources: { cpu: { shares: { value: 555n } } } },
    });
    const { failed } = await one.updateContainers({
      update: [shares(first), shares("0".repeat(64))],
      evict: [{ containerId: second, reason: "test" }],
    });
    expect(failed.map(({ containerId }) => containerId)).toEqual(["0".repeat(64)]);
    expect((await nri.cri.status(first)).resources?.linux?.cpuShares).toBe(555n);
    await nri.cri.call("stopContainer", { containerId: second, timeout: 0n });
    await expect.poll(async () => (await nri.cri.status(second)).state).toBe(2);
  });
});
