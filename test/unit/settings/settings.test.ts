/** The settings file: defaults, every key, and how a wrong one is refused. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.js";
import { DEFAULT_SETTINGS, loadSettings, parseSettings } from "../../../src/settings/settings.js";

function refusal(text: string): RuntimeError {
  try {
    parseSettings(text);
  } catch (err) {
    if (err instanceof RuntimeError) return err;
    throw err;
  }
  throw new Error("was accepted");
}

test("an empty file gives the defaults", () => {
  expect(parseSettings("")).toEqual(DEFAULT_SETTINGS);
  expect(DEFAULT_SETTINGS).toMatchObject({
    logLevel: "info",
    cgroupRoot: "minke",
    tolerateMissingControllers: false,
    network: { mode: "auto", bridge: "minke0", isolateFrom: [] },
    logs: { maxBytes: 10_485_760, maxFiles: 5 },
    backoff: { baseMs: 10_000, maxMs: 300_000 },
    streaming: { host: "127.0.0.1", port: 0 },
    cdiDirs: ["/etc/cdi", "/var/run/cdi"],
    userNamespaces: { firstId: 1_879_048_192, idsPerPod: 65_536, maxPods: 4_000 },
    pods: { gracePeriodMs: 30_000 },
  });
});

test("every key of a full file is taken", () => {
  const settings = parseSettings(`
    log-level = "debug"
    cgroup-root = "machine/minke"
    tolerate-missing-controllers = true
    registry-config-path = "/etc/containerd/certs.d"
    [network]
    bridge = "br-pods"
    subnet-ipv4 = "10.9.0.0/24"
    subnet-ipv6 = "fd00:1::/64"
    mtu = 9000
    mode = "cni"
    isolate-from = ["docker0"]
    [network.cni]
    config-dir = "/etc/net.d"
    config-file = "/etc/net.d/10.conflist"
    plugin-dirs = ["/usr/libexec/cni"]
    timeout-ms = 5000
    netns-dir = "/run/netns"
    [registries."docker.io"]
    endpoint = "http://127.0.0.1:5000/"
    mirrors = ["https://mirror.example/hub/"]
    ca = "/etc/ca.pem"
    client-cert = "/etc/client.pem"
    client-key = "/etc/client.key"
    skip-verify = true
    plain-http = false
    [images]
    parallel-layers = 2
    max-layer-bytes = 1000
    progress-timeout-ms = 5000
    allow-foreign-layers = true
    docker-config-path = "/etc/docker.json"
    [images.collection]
    enabled = false
    cri = true
    high-percent = 60
    low-percent = 50.5
    min-unused-ms = 0
    max-unused-ms = 1000
    interval-ms = 2000
    pinned = ["registry.example/base:1"]
    [runtime-handlers.crun]
    path = "/usr/bin/crun"
    args = ["--debug"]
    [logs]
    max-bytes = 65536
    max-files = 2
    [backoff]
    base-ms = 5
    max-ms = 50
    [metrics]
    socket = "/run/minke/metrics.sock"
    listen = "[::1]:9464"
    [streaming]
    address = "10.0.0.1"
    port = 10250
    tls-cert = "/c.pem"
    tls-key = "/k.pem"
    tls-client-ca = "/ca.pem"
    [cdi]
    spec-dirs = ["/srv/cdi"]
    [nri]
    enabled = false
    socket = "/run/nri/nri.sock"
    config-dir = "/etc/nri.d"
    plugin-dir = "/opt/nri/plugins"
    registration-timeout-ms = 200
    request-timeout-ms = 300
    [user-namespaces]
    first-id = 100000
    ids-per-pod = 131072
    max-pods = 2
    [pods]
    grace-period-ms = 0
  `);
  expect(settings).toEqual({
    logLevel: "debug",
    cgroupRoot: "machine/minke",
    tolerateMissingControllers: true,
    network: {
      mode: "cni",
      cni: {
        configDir: "/etc/net.d",
        configFile: "/etc/net.d/10.conflist",
        pluginDirs: ["/usr/libexec/cni"],
        timeoutMs: 5000,
        netnsDir: "/run/netns",
      },
      bridge: "br-pods",
      subnet4: "10.9.0.0/24",
      subnet6: "fd00:1::/64",
      mtu: 9000,
      isolateFrom: ["docker0"],
    },
    registries: {
      "docker.io": {
        endpoint: "http://127.0.0.1:5000",
        mirrors: ["https://mirror.example/hub"],
        ca: ["/etc/ca.pem"],
        clientCert: "/etc/client.pem",
        clientKey: "/etc/client.key",
        skipVerify: true,
        plainHttp: false,
      },
    },
    registryConfigPath: "/etc/containerd/certs.d",
    images: {
      parallelLayers: 2,
      maxLayerBytes: 1000,
      progressTimeoutMs: 5000,
      allowForeignLayers: true,
      dockerConfigPath: "/etc/docker.json",
      collection: {
        enabled: false,
        cri: true,
        highPercent: 60,
        lowPercent: 50.5,
        minUnusedMs: 0,
        maxUnusedMs: 1000,
        intervalMs: 2000,
        pinned: ["registry.example/base:1"],
      },
    },
    runtimeHandlers: { crun: { path: "/usr/bin/crun", args: ["--debug"] } },
    logs: { maxBytes: 65_536, maxFiles: 2 },
    backoff: { baseMs: 5, maxMs: 50 },
    metrics: { socketPath: "/run/minke/metrics.sock", listen: { host: "::1", port: 9464 } },
    streaming: { host: "10.0.0.1", port: 10250, tls: { certificate: "/c.pem", key: "/k.pem", clientCa: "/ca.pem" } },
    cdiDirs: ["/srv/cdi"],
    nri: {
      enabled: false,
      socketPath: "/run/nri/nri.sock",
      configDir: "/etc/nri.d",
      pluginDir: "/opt/nri/plugins",
      registrationTimeoutMs: 200,
      requestTimeoutMs: 300,
    },
    userNamespaces: { firstId: 100_000, idsPerPod: 131_072, maxPods: 2 },
    pods: { gracePeriodMs: 0 },
  });
});

test("unknown keys are refused by their path, all at once", () => {
  const err = refusal('tolerate = true\n[network]\nbrige = "x"\n');
  expect(err).toMatchObject({ kind: "invalid-argument", code: "SETTINGS_INVALID" });
  expect(err.message).toContain('"network.brige": unknown setting');
  expect(err.message).toContain('"tolerate": unknown setting');
});

test("a document that is not TOML is refused with line and column", () => {
  expect(refusal('log-level = "info"\nnetwork = = 1\n').message).toMatch(/^line 2, column \d+: /);
});

test.each([
  ["a link name of 16 bytes", '[network]\nbridge = "abcdefghijklmnop"', "network.bridge"],
  ["an IPv6 subnet for IPv4", '[network]\nsubnet-ipv4 = "fd00::/64"', "network.subnet-ipv4"],
  ["a subnet without length", '[network]\nsubnet-ipv6 = "fd00::"', "network.subnet-ipv6"],
  ["no family at all", '[network]\nsubnet-ipv4 = "none"\nsubnet-ipv6 = "none"', "network.subnet-ipv6"],
  ["a network mode that is none", '[network]\nmode = "docker"', "network.mode"],
  ["a relative plugin directory", '[network.cni]\nplugin-dirs = ["bin"]', "network.cni.plugin-dirs.0"],
  ["an MTU below IPv6's least", "[network]\nmtu = 576", "network.mtu"],
  ["an absolute cgroup root", 'cgroup-root = "/minke"', "cgroup-root"],
  ["a cgroup root with ..", 'cgroup-root = "a/../b"', "cgroup-root"],
  ["an endpoint of another scheme", '[registries."a"]\nendpoint = "file:///x"', "registries.a.endpoint"],
  ["a back-off that shrinks", "[backoff]\nbase-ms = 10\nmax-ms = 5", "backoff"],
  ["a low mark above the high one", "[images.collection]\nhigh-percent = 70", "images.collection"],
  ["a handler of the built-in one's name", '[runtime-handlers.minke]\npath = "/x"', "runtime-handlers.minke"],
  ["a handler without a path", "[runtime-handlers.crun]", "runtime-handlers.crun.path"],
  ["ids past the last one", "[user-namespaces]\nfirst-id = 4294901760\nmax-pods = 2", "user-namespaces"],
  ["metrics for other machines", '[metrics]\nlisten = "0.0.0.0:9464"', "metrics.listen"],
  ["metrics at no address", '[metrics]\nlisten = "127.0.0.999:9464"', "metrics.listen"],
  ["metrics at a port that nobody knows", '[metrics]\nlisten = "127.0.0.1:0"', "metrics.listen"],
  ["a registry by its address", '[registries."https://a.example"]', "registries.https://a.example"],
  ["a bridge of the name that means every link", '[network]\nbridge = "all"', "network.bridge"],
  ["a bridge of a name with a slash", '[network]\nbridge = "a/b"', "network.bridge"],
  ["a time that no timer can wait", "[images.collection]\ninterval-ms = 2147483648", "images.collection.interval-ms"],
  ["a port beyond all", '[metrics]\nlisten = "127.0.0.1:70000"', "metrics.listen"],
  ["streams beyond loopback in the clear", '[streaming]\naddress = "10.0.0.1"', "streaming.address"],
  ["streams at no address", '[streaming]\naddress = "0.0.0.0"', "streaming.address"],
  ["a certificate without its key", '[streaming]\ntls-cert = "/c.pem"', "streaming.tls-key"],
  ["a word for a number", '[logs]\nmax-bytes = "10Mi"', "logs.max-bytes"],
])("%s is refused by its path", (_, text, path) => {
  const err = refusal(text);
  expect(err.code).toBe("SETTINGS_INVALID");
  expect(err.message).toContain(`"${path}": `);
});

test.each([
  ['tolerate-missing-controllers = "yes"', '"tolerate-missing-controllers": must be true or false, not "yes"'],
  ["network = 3", '"network": must be a table, not 3'],
  ["network = []", '"network": must be a table'],
  ['network.isolate-from = "docker0"', '"network.isolate-from": must be a list, not "docker0"'],
  ["network.cni.plugin-dirs = []", '"network.cni.plugin-dirs": must not be empty'],
  ["network.mtu = 100", '"network.mtu": must be at least 1280, not 100'],
  ["network.mtu = 1500.5", '"network.mtu": must be a whole number, not 1500.5'],
  ['network.mode = "host"', '"network.mode": must be "auto", "builtin" or "cni", not "host"'],
  ["registries.a.ca = 1", '"registries.a.ca": must be an absolute path or a list of them, not 1'],
  ["[runtime-handlers.crun]", '"runtime-handlers.crun.path": is missing, must be a string'],
  ['runtime-handlers.Crun.path = "/c"', '"runtime-handlers.Crun": must be a DNS label, as a RuntimeClass wants it'],
  ['streaming.address = "localhost"', '"streaming.address": must be an IP address of this machine'],
  [
    'network.isolate-from = ["minke0"]',
    '"network.isolate-from": names the pods\' own bridge: pods of one network are not isolated from each other',
  ],
])("%s is refused with what it must be and what it is", (text, message) => {
  expect(refusal(text).message).toBe(message);
});

test("a file that was asked for and is missing is not-found SETTINGS_NOT_FOUND", async () => {
  await expect(loadSettings("/nowhere/config.toml")).rejects.toMatchObject({
    kind: "not-found",
    code: "SETTINGS_NOT_FOUND",
  });
});

test("a refusal names the file", async () => {
  const folder = mkdtempSync(join(tmpdir(), "minke-settings-"));
  try {
    writeFileSync(join(folder, "c.toml"), "nope = 1");
    await expect(loadSettings(join(folder, "c.toml"))).rejects.toThrow(
      `read settings "${folder}/c.toml": "nope": unknown setting`,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("the settings that README shows are read", async () => {
  const readme = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");
  const examples = Array.from(readme.matchAll(/```toml\n(.*?)```/gs), ([, text = ""]) => text);
  expect(examples.length).toBeGreaterThanOrEqual(2);
  for (const text of examples) {
    const folder = mkdtempSync(join(tmpdir(), "minke-settings-readme-"));
    try {
      writeFileSync(join(folder, "c.toml"), text);
      const settings = await loadSettings(join(folder, "c.toml"));
      if (text.includes("registry-config-path")) {
        expect(settings.registries["registry.example:5000"]).toEqual({
          mirrors: ["https://mirror.example/v2/cache"],
          ca: ["/etc/minke/registry-ca.pem"],
          clientCert: "/etc/minke/client.pem",
          clientKey: "/etc/minke/client.key",
        });
        expect(Object.keys(settings.registries)).toHaveLength(4);
        expect(settings.images.dockerConfigPath).toBe("/root/.docker/config.json");
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
});
