/** ConfigMaps and Secrets: as files and variables of a pod, changed while it runs, and never told to anyone else. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
const PASSWORD = "hunter2-is-the-password";

const configMap = (greeting: string) => `
apiVersion: v1
kind: ConfigMap
metadata: { name: app }
data: { greeting: "${greeting}", app.conf: "listen 80\\n" }
binaryData: { blob: AAH+/w== }
`;
const manifest = `${configMap("hello")}
---
apiVersion: v1
kind: Secret
metadata: { name: login }
type: kubernetes.io/basic-auth
stringData: { password: ${PASSWORD} }
data: { user: YWRtaW4= }
---
apiVersion: v1
kind: Pod
metadata: { name: configured, labels: { app: demo, tier: "1" }, annotations: { note: 'say "hi"' } }
spec:
  terminationGracePeriodSeconds: 1
  securityContext: { fsGroup: 2000 }
  volumes:
  - { name: all, configMap: { name: app } }
  - { name: some, configMap: { name: app, defaultMode: 0400, items: [{ key: app.conf, path: etc/deep/app.conf, mode: 0440 }] } }
  - { name: keys, secret: { secretName: login, defaultMode: 0400 } }
  - { name: absent, configMap: { name: later, optional: true } }
  - name: mixed
    projected:
      sources:
      - { configMap: { name: app, items: [{ key: greeting, path: config/greeting }] } }
      - { secret: { name: login, items: [{ key: user, path: secret/user }] } }
      - downwardAPI:
          items:
          - { path: labels, fieldRef: { fieldPath: metadata.labels } }
          - { path: note, fieldRef: { fieldPath: "metadata.annotations['note']" } }
          - { path: memory, resourceFieldRef: { containerName: main, resource: limits.memory, divisor: 1Mi } }
  containers:
  - name: main
    image: minke.test/busybox:1
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"]
    resources: { limits: { memory: 64Mi } }
    env:
    - { name: GREETING, valueFrom: { configMapKeyRef: { name: app, key: greeting } } }
    - { name: PASSWORD, valueFrom: { secretKeyRef: { name: login, key: password } } }
    - { name: NOTHING, valueFrom: { configMapKeyRef: { name: nobody, key: x, optional: true } } }
    - { name: URL, value: "$(CFG_greeting)/$(PASSWORD)" }
    - { name: MIB, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Mi } } }
    envFrom:
    - { prefix: CFG_, configMapRef: { name: app } }
    - { secretRef: { name: nobody, optional: true } }
    volumeMounts:
    - { name: all, mountPath: /all }
    - { name: some, mountPath: /some }
    - { name: keys, mountPath: /keys }
    - { name: absent, mountPath: /absent }
    - { name: mixed, mountPath: /mixed }
    - { name: all, mountPath: /one.conf, subPath: app.conf }
`;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  daemon = await TestDaemon.startWithImages({ tables: "[backoff]\nbase-ms = 300\nmax-ms = 1200" });
  await daemon.runPod(manifest);
});
afterAll(() => daemon?.dispose());

const sh = (script: string) => daemon.minke(["exec", "configured", "--", "sh", "-c", script]);
const out = async (script: string) => {
  const { code, stdout, stderr } = await sh(script);
  expect({ script, code, stderr }).toEqual({ script, code: 0, stderr: "" });
  return stdout;
};
const apply = (text: string) => daemon.minke(["run", "-f", "-"], { input: text });
const containerOf = (name: string, volumes: string, mounts: string, more = "") => `apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  terminationGracePeriodSeconds: 1
  volumes: [${volumes}]
  containers: [{ name: main, image: "minke.test/busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"], volumeMounts: [${mounts}]${more} }]
`;

describe("in the pod", () => {
  test("keys are files, with the modes and paths that the manifest gives", async () => {
    expect(await out("cd /all; ls; cat greeting app.conf; od -An -tx1 blob")).toBe(
      "app.conf\nblob\ngreeting\nhellolisten 80\n 00 01 fe ff\n",
    );
    expect(await out("stat -L -c '%a %g' /some/etc/deep/app.conf /keys/user; cat /one.conf")).toBe(
      "440 2000\n440 2000\nlisten 80\n",
    );
    expect(await out("cat /keys/user /keys/password")).toBe(`admin${PASSWORD}`);
    expect(await out("ls /absent")).toBe("");
  });

  test("a projected volume holds what all of its sources give", async () => {
    expect(await out("cd /mixed; cat config/greeting secret/user; echo; cat labels; echo; cat note memory")).toBe(
      'helloadmin\napp="demo"\ntier="1"\nsay "hi"64',
    );
  });

  test("variables come from single keys, whole objects and resources", async () => {
    expect(await out('echo "$GREETING|$PASSWORD|${NOTHING-unset}|$URL|$MIB|$CFG_greeting"')).toBe(
      `hello|${PASSWORD}|unset|hello/${PASSWORD}|64|hello\n`,
    );
  });

  test("such volumes are read-only, on a tmpfs of the daemon", async () => {
    expect((await sh("echo x > /all/greeting")).stderr).toMatch(/Read-only file system/);
    expect(await out("stat -f -c %T /keys")).toBe("tmpfs\n");
  });
});

describe("a change", () => {
  test("of a ConfigMap reaches a running pod at one instant, and a subPath stays", async () => {
    const { stdout } = await apply(configMap("changed").replace("listen 80", "listen 81"));
    expect(stdout).toBe("configmap/app configured\n");
    await expect.poll(() => out("cat /all/greeting /mixed/config/greeting")).toBe("changedchanged");
    expect(await out("cat /all/app.conf /one.conf; ls -a /all | grep -c '^\\.\\.2'")).toBe("listen 81\nlisten 80\n1\n");
    expect((await apply(configMap("changed").replace("listen 80", "listen 81"))).stdout).toBe(
      "configmap/app unchanged\n",
    );
  });

  test("an optional one that comes later appears, and a key that goes disappears", async () => {
    const later = (data: string) => `apiVersion: v1\nkind: ConfigMap\nmetadata: { name: later }\ndata: { ${data} }\n`;
    await apply(later("a: A, b: B"));
    await expect.poll(() => out("ls /absent")).toBe("a\nb\n");
    await apply(later("b: BB"));
    await expect.poll(() => out("ls /absent; cat /absent/b")).toBe("b\nBB");
  });

  test("reaches a pod that ran before the daemon was started anew", async () => {
    await daemon.kill9();
    await daemon.start();
    expect(await out("cat /all/greeting")).toBe("changed");
    await apply(configMap("again"));
    await expect.poll(() => out("cat /all/greeting")).toBe("again");
  });

  test("of an immutable one is refused", async () => {
    const fixed = (value: string) =>
      `apiVersion: v1\nkind: ConfigMap\nmetadata: { name: fixed }\nimmutable: true\ndata: { a: ${value} }\n`;
    expect((await apply(fixed("x"))).code).toBe(0);
    const { code, stderr } = await apply(fixed("z"));
    expect(stderr).toMatch(/ConfigMap "fixed".*immutable/);
    expect(code).toBe(1);
  });
});

describe("what is not there", () => {
  test("a volume waits for its ConfigMap, says so, and the pod starts when it comes", async () => {
    await apply(containerOf("waits", "{ name: v, configMap: { name: missing } }", "{ name: v, mountPath: /v }"));
    await expect
      .poll(async () => daemon.expect("describe", "pod", "waits"))
      .toMatch(/FailedMount.*volume "v": ConfigMap "missing" not found/);
    await apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: missing }\ndata: { k: v }\n");
    await expect.poll(async () => (await daemon.pod("waits")).status.phase).toBe("Running");
    await daemon.expect("delete", "pod", "waits");
  });

  test("a variable's object that is missing is CreateContainerConfigError by name", async () => {
    const env = ", env: [{ name: X, valueFrom: { secretKeyRef: { name: login, key: nokey } } }]";
    const { code, stderr } = await daemon.minke(["run", "-f", "-", "--wait"], {
      input: containerOf("nokey", "", "", env),
    });
    expect(stderr).toMatch(/CreateContainerConfigError: Secret "login" has no key "nokey"/);
    expect(code).toBe(1);
  });

  test.each([
    ["a key with a slash", "ConfigMap", "data: { a/b: x }", /data\["a\/b"\]: a key is made of/],
    [
      "a number for a value, without saying it,",
      "Secret",
      "stringData: { a: 9876 }",
      /stringData\.a: expected string, received number$/m,
    ],
    ["a value that is not base64", "Secret", "data: { a: '%%%' }", /data\["a"\]: the value is not base64/],
  ])("%s is refused", async (_, kind, data, expected) => {
    const { code, stderr } = await apply(`apiVersion: v1\nkind: ${kind}\nmetadata: { name: bad }\n${data}\n`);
    expect(stderr).toMatch(expected);
    expect(code).toBe(2);
  });
});

describe("secrecy", () => {
  test("the password is in no log, no event, no table and no description", async () => {
    const texts = [
      daemon.log,
      await daemon.expect("describe", "pod", "configured"),
      await daemon.expect("get", "events"),
      await daemon.expect("get", "secrets"),
      await daemon.expect("get", "pods", "-o", "json"),
    ];
    const encoded = Buffer.from(PASSWORD).toString("base64");
    for (const text of texts) {
      expect(text).not.toContain(PASSWORD);
      expect(text).not.toContain(encoded);
    }
    expect(texts[3]).toMatch(/^NAME +TYPE +DATA +AGE\nlogin +kubernetes.io\/basic-auth +2 /);
  });

  test("on disk it is in files that only root reads", () => {
    const folder = join(daemon.root, "state/durable/secrets");
    for (const file of readdirSync(folder)) expect(statSync(join(folder, file)).mode & 0o777).toBe(0o600);
    const encoded = Buffer.from(PASSWORD).toString("base64");
    const holding = execFileSync("grep", ["-rlE", `${PASSWORD}|${encoded}`, daemon.root], { encoding: "utf8" });
    for (const file of holding.trim().split("\n")) expect([file, statSync(file).mode & 0o077]).toEqual([file, 0]);
    expect(readFileSync(join(daemon.folder, "daemon.log"), "utf8")).not.toContain(encoded);
  });
});

test("delete -f removes the objects of the manifest with the pod", async () => {
  const { code, stdout } = await daemon.minke(["delete", "-f", "-"], { input: manifest });
  expect({ code, stdout }).toEqual({
    code: 0,
    stdout: "pod/configured deleted\nconfigmap/app deleted\nsecret/login deleted\n",
  });
  expect((await daemon.minke(["get", "secrets"])).stderr).toBe("No secrets found in namespace default.\n");
  expect(readdirSync(join(daemon.run, "tmpfs"), { recursive: true }).join()).not.toContain("password");
});
