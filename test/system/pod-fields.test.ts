/** What a manifest asks of a running pod, seen from inside its containers: namespaces, users, files, volumes. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { TestDaemon } from "../harness/daemon.js";
import { missing, requires } from "../harness/requires.js";

const lacking = missing("root", "cgroup2", "overlayfs");
let daemon: TestDaemon;
let host: string;
let socketServer: Server;

const SLEEP = `command: ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]`;
const IMAGE = `image: minke.test/busybox:1, imagePullPolicy: IfNotPresent`;

const fields = () => `
apiVersion: v1
kind: Pod
metadata: { name: fields, labels: { app: fields }, annotations: { note: "a b" } }
spec:
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  hostname: chosen
  hostAliases: [{ ip: 10.9.9.9, hostnames: [alias-one, alias-two] }]
  dnsPolicy: None
  dnsConfig: { nameservers: [192.0.2.53], searches: [example.test], options: [{ name: ndots, value: "3" }, { name: rotate }] }
  securityContext:
    fsGroup: 2000
    supplementalGroups: [3000]
    sysctls: [{ name: net.ipv4.ip_unprivileged_port_start, value: "81" }, { name: kernel.msgmax, value: "12345" }]
  volumes:
  - { name: memory, emptyDir: { medium: Memory, sizeLimit: 1Mi } }
  - { name: disk, emptyDir: {} }
  - { name: any, hostPath: { path: "${host}" } }
  - { name: dir-made, hostPath: { path: "${host}/made/deep", type: DirectoryOrCreate } }
  - { name: dir, hostPath: { path: "${host}/dir", type: Directory } }
  - { name: file-made, hostPath: { path: "${host}/made.txt", type: FileOrCreate } }
  - { name: file, hostPath: { path: "${host}/file", type: File } }
  - { name: socket, hostPath: { path: "${host}/socket", type: Socket } }
  - { name: device, hostPath: { path: /dev/null, type: CharDevice } }
  containers:
  - name: main
    ${IMAGE.replace(", ", "\n    ")}
    ${SLEEP}
    env:
    - { name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
    - { name: POD_UID, valueFrom: { fieldRef: { fieldPath: metadata.uid } } }
    - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
    - { name: POD_IPS, valueFrom: { fieldRef: { fieldPath: status.podIPs } } }
    - { name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
    - { name: APP, valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } }
    - { name: NOTE, valueFrom: { fieldRef: { fieldPath: "metadata.annotations['note']" } } }
    - { name: EXPANDED, value: "$(POD_NAME)-$$(POD_NAME)-$(UNKNOWN)" }
    volumeMounts:
    - { name: memory, mountPath: /memory }
    - { name: disk, mountPath: /disk }
    - { name: disk, mountPath: /part, subPath: one/two }
    - { name: any, mountPath: /host/any, readOnly: true }
    - { name: dir-made, mountPath: /host/dir-made }
    - { name: dir, mountPath: /host/dir }
    - { name: file-made, mountPath: /host/file-made }
    - { name: file, mountPath: /host/file }
    - { name: socket, mountPath: /host/socket }
    - { name: device, mountPath: /host/device }
  - { name: locked, ${IMAGE}, ${SLEEP}, securityContext: { readOnlyRootFilesystem: true, runAsUser: 1234, runAsGroup: 4321, runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: { drop: [ALL], add: [NET_BIND_SERVICE] } } }
  - { name: mighty, ${IMAGE}, ${SLEEP}, securityContext: { privileged: true } }
---
apiVersion: v1
kind: Pod
metadata: { name: on-host }
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers:
  - { name: main, ${IMAGE}, ${SLEEP} }
`;

beforeEach(requires("root", "cgroup2", "overlayfs"));
beforeAll(async () => {
  if (lacking) return;
  host = mkdtempSync(join(tmpdir(), "minke-host-"));
  mkdirSync(join(host, "dir"));
  writeFileSync(join(host, "file"), "from the host\n");
  socketServer = createServer();
  await new Promise<void>((resolve) => socketServer.listen(join(host, "socket"), resolve));
  daemon = await TestDaemon.startWithImages();
  await daemon.runPod(fields());
});
afterAll(async () => {
  await daemon?.dispose();
  socketServer?.close();
  if (host) rmSync(host, { recursive: true, force: true });
});

async function sh(script: string, container = "main", pod = "fields") {
  return await daemon.minke(["exec", pod, "-c", container, "--", "sh", "-c", script]);
}

async function out(script: string, container = "main", pod = "fields"): Promise<string> {
  const { code, stdout, stderr } = await sh(script, container, pod);
  expect({ script, code, stderr }).toEqual({ script, code: 0, stderr: "" });
  return stdout.trim();
}

const hostLink = (path: string) => execFileSync("readlink", [path], { encoding: "utf8" }).trim();

describe("names and files of a pod", () => {
  test("hostname, hostAliases and dnsConfig are what the manifest says", async () => {
    expect(await out("hostname")).toBe("chosen");
    expect(await out("cat /etc/hosts")).toMatch(/^10\.9\.9\.9\s+alias-one\s+alias-two$/m);
    expect(await out("cat /etc/resolv.conf")).toBe(
      "search example.test\nnameserver 192.0.2.53\noptions ndots:3 rotate",
    );
  });

  test("env takes fields of the pod and expands references", async () => {
    const { metadata, status } = await daemon.pod("fields");
    expect(await out('echo "$POD_NAME|$POD_UID|$POD_IP|$POD_IPS|$NODE|$APP|$NOTE|$EXPANDED"')).toBe(
      [
        "fields",
        metadata.uid,
        status.podIP,
        status.podIPs?.map(({ ip }) => ip).join(","),
        hostname(),
        "fields",
        "a b",
        "fields-$(POD_NAME)-$(UNKNOWN)",
      ].join("|"),
    );
  });

  test("sysctls of the network and IPC namespaces are set in the pod and not on the host", async () => {
    expect(await out("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")).toBe("81\n12345");
    expect(readFileSync("/proc/sys/kernel/msgmax", "utf8").trim()).not.toBe("12345");
  });
});

describe("namespaces", () => {
  test("containers with shareProcessNamespace see each other's processes below one init", async () => {
    expect(await out("cat /proc/1/comm")).toMatch(/minke-init/);
    const [main, locked] = await Promise.all([
      out("readlink /proc/self/ns/pid"),
      out("readlink /proc/self/ns/pid", "mighty"),
    ]);
    expect(main).toBe(locked);
    expect(await out("ps | grep -c 'sleep 1000$'")).toBe("3");
  });

  test("a pod on the host's network, PID and IPC namespaces is in exactly these", async () => {
    for (const name of ["net", "pid", "ipc", "uts"]) {
      expect(await out(`readlink /proc/self/ns/${name}`, "main", "on-host")).toBe(hostLink(`/proc/self/ns/${name}`));
    }
    expect(await out("readlink /proc/self/ns/mnt", "main", "on-host")).not.toBe(hostLink("/proc/self/ns/mnt"));
  });
});

describe("security context", () => {
  test("readOnlyRootFilesystem lets nothing be written", async () => {
    const { code, stderr } = await sh("echo x > /tmp/x || echo x > /x", "locked");
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/Read-only file system/);
  });

  test("runAsUser, runAsGroup, fsGroup and supplementalGroups are the process's", async () => {
    expect(await out("id -u; id -g; id -G", "locked")).toBe("1234\n4321\n4321 2000 3000");
  });

  test("drop ALL and add one leave exactly that one, and no_new_privs", async () => {
    expect(await out("grep -E 'CapBnd|NoNewPrivs' /proc/self/status | tr -d '\\t'", "locked")).toBe(
      "CapBnd:0000000000000400\nNoNewPrivs:1",
    );
  });

  test("a privileged container has the daemon's capabilities, its devices and writable /proc/sys", async () => {
    const bounding = /^CapBnd:\t([0-9a-f]+)$/m.exec(readFileSync(`/proc/${daemon.pid}/status`, "utf8"))?.[1];
    expect(await out("grep CapBnd /proc/self/status | cut -f2", "mighty")).toBe(bounding);
    expect(await out("grep CapBnd /proc/self/status | cut -f2")).not.toBe(bounding);
    expect((await sh("test -w /proc/sys/kernel/msgmax", "mighty")).code).toBe(0);
    expect((await sh("echo 1 > /proc/sys/kernel/msgmax")).code).not.toBe(0);
  });

  test("runAsNonRoot refuses an image that runs as root", async () => {
    const { code, stderr } = await daemon.minke(["run", "-f", "-", "--wait"], {
      input: `apiVersion: v1
kind: Pod
metadata: { name: rooted }
spec: { containers: [{ name: main, ${IMAGE}, securityContext: { runAsNonRoot: true } }] }`,
    });
    expect(stderr).toMatch(/CreateContainerConfigError.*runAsNonRoot/);
    expect(code).toBe(1);
  });
});

describe("volumes", () => {
  test("an emptyDir in memory is a tmpfs that ends at its sizeLimit", async () => {
    expect(await out("stat -f -c %T /memory")).toBe("tmpfs");
    const { code, stderr } = await sh("dd if=/dev/zero of=/memory/big bs=64k count=32");
    expect(stderr).toMatch(/No space left on device/);
    expect(code).toBe(1);
    expect(Number(await out("stat -c %s /memory/big"))).toBe(1024 * 1024);
    await out("rm /memory/big");
  });

  test("a volume of the pod belongs to fsGroup and keeps it for new files", async () => {
    expect(await out("stat -c '%g %a' /disk /memory")).toBe("2000 2777\n2000 2777");
    expect(await out("touch /disk/new; stat -c %g /disk/new")).toBe("2000");
  });

  test("a subPath is a directory inside the volume", async () => {
    await out("echo inside > /part/file");
    expect(await out("cat /disk/one/two/file")).toBe("inside");
  });

  test("hostPath of each type is mounted, and made where the type says so", async () => {
    expect(await out("cat /host/file /host/any/file")).toBe("from the host\nfrom the host");
    expect((await sh("echo x > /host/any/file")).stderr).toMatch(/Read-only/);
    await out("echo made > /host/dir-made/a; echo made > /host/file-made; echo made > /host/dir/b");
    expect(readFileSync(join(host, "made/deep/a"), "utf8")).toBe("made\n");
    expect(readFileSync(join(host, "made.txt"), "utf8")).toBe("made\n");
    expect(readFileSync(join(host, "dir/b"), "utf8")).toBe("made\n");
    expect(await out("test -S /host/socket && test -c /host/device && echo ok")).toBe("ok");
  });

  test.each([
    ["Directory", "file", /is a File/],
    ["File", "dir", /is a Directory/],
    ["Directory", "nowhere", /does not exist/],
    ["Socket", "file", /is a File/],
    ["BlockDevice", "file", /is a File/],
  ])("hostPath of type %s on %s is refused by name", async (type, path, expected) => {
    const { code, stderr } = await daemon.minke(["run", "-f", "-", "--wait"], {
      input: `apiVersion: v1
kind: Pod
metadata: { name: wrong }
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{ name: v, hostPath: { path: "${host}/${path}", type: ${type} } }]
  containers: [{ name: main, ${IMAGE}, volumeMounts: [{ name: v, mountPath: /v }] }]`,
    });
    expect(stderr).toMatch(expected);
    expect(stderr).toContain(`volume "v"`);
    expect(code).toBe(1);
  });

  test("a subPath through a symbolic link that a container made is refused, and nothing outside is touched", async () => {
    const victim = join(host, "victim");
    mkdirSync(victim);
    const shared = join(host, "dir");
    execFileSync("ln", ["-s", victim, join(shared, "link")]);
    const { code, stderr } = await daemon.minke(["run", "-f", "-", "--wait"], {
      input: `apiVersion: v1
kind: Pod
metadata: { name: hostile }
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{ name: v, hostPath: { path: "${shared}" } }]
  containers: [{ name: main, ${IMAGE}, ${SLEEP}, volumeMounts: [{ name: v, mountPath: /v, subPath: link/inner }] }]`,
    });
    expect(stderr).toMatch(/subPath "link\/inner" leads through a symbolic link/);
    expect(code).toBe(1);
    expect(existsSync(join(victim, "inner"))).toBe(false);
  });
});

test("the pod's volumes go with it, memory and disk, and the host's stay", async () => {
  const { uid } = (await daemon.pod("fields")).metadata;
  expect(existsSync(join(daemon.root, "volumes", uid))).toBe(true);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toContain(uid);
  await daemon.expect("delete", "pod", "fields");
  expect(existsSync(join(daemon.root, "volumes", uid))).toBe(false);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(uid);
  expect(statSync(join(host, "made.txt")).isFile()).toBe(true);
});
