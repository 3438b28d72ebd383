/** Sends requests of nonsense to a daemon, judges the answers and takes away what came of those that succeeded. */
import { existsSync, mkdirSync, readdirSync, rmdirSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import { METHODS } from "../../src/cri/verbs.js";
import { CriClient } from "./cri.js";
import type { NonsenseCase } from "./cri-nonsense.js";
import type { TestDaemon } from "./daemon.js";
import type { ProtoMethod, Tree } from "./proto.js";
import { cgroup2Mount } from "./requires.js";

const OK = 0;
const INVALID_ARGUMENT = 3;
const DEADLINE_EXCEEDED = 4;
/** What a request can be refused for, and an UNAVAILABLE registry. Not among them: INTERNAL, UNKNOWN, DATA_LOSS. */
const REFUSALS = new Set([INVALID_ARGUMENT, 5, 6, 7, 8, 9, 12, 14]);
/** Streams that end when their caller goes. */
const ENDLESS = /GetContainerEvents$/;
const ENDLESS_MS = 100;
const DEADLINE_MS = 60_000;

export interface Answer {
  readonly status: number;
  /** minke's own. */
  readonly code: string;
  readonly message: string;
  /** Of a unary call that succeeded. */
  readonly bytes?: Buffer | undefined;
}

export class NonsenseRun {
  readonly #daemon: TestDaemon;
  readonly #raw: Client;
  readonly #cri: CriClient;
  readonly #logDirectory: string;
  /** Answers, and has nothing. */
  readonly #registry: Server;
  #sandbox: string | undefined;
  #container: string | undefined;
  #made = 0;

  static async start(daemon: TestDaemon): Promise<NonsenseRun> {
    const registry = createServer((_request, response) => response.writeHead(404).end());
    await new Promise<void>((resolve) => registry.listen(0, "127.0.0.1", resolve));
    return new NonsenseRun(daemon, registry);
  }

  private constructor(daemon: TestDaemon, registry: Server) {
    this.#daemon = daemon;
    this.#registry = registry;
    this.#cri = new CriClient(daemon.criSocket);
    this.#raw = new Client(`unix:${daemon.criSocket}`, credentials.createInsecure());
    // What leads up from here is still the test's own.
    this.#logDirectory = join(daemon.folder, "logs/of/nonsense/pods");
    mkdirSync(this.#logDirectory, { recursive: true });
  }

  /** What is wrong with the answers to these; nothing where all is well. */
  async complaints(cases: readonly NonsenseCase[]): Promise<string[]> {
    const complaints: string[] = [];
    const { pid } = this.#daemon;
    for (const one of cases) {
      const complaint = await this.#complaint(one);
      if (complaint) complaints.push(`${one.title}: ${complaint}`);
    }
    if (this.#daemon.pid !== pid || !(await this.#daemon.isServing())) complaints.push("the daemon died");
    return complaints;
  }

  /** Removes what the requests were about. */
  async close(): Promise<void> {
    if (this.#sandbox !== undefined) await this.#cri.removeSandbox(this.#sandbox);
    this.#sandbox = undefined;
    removeParents(join(cgroup2Mount() ?? "", this.#daemon.cgroupRoot, PARENTS));
    this.#registry.close();
    this.#registry.closeAllConnections();
    this.#raw.close();
    this.#cri.close();
  }

  async #complaint({ method, request, isMalformed }: NonsenseCase): Promise<string | undefined> {
    const answer = await this.#send(method, request(await this.#sound(method)));
    const told = `status ${answer.status} ${answer.code} ${JSON.stringify(answer.message.slice(0, 300))}`;
    const trouble = answer.status === OK ? await this.#undo(method, answer.bytes) : undefined;
    if (trouble !== undefined) return trouble;
    if (isMalformed) return answer.status === INVALID_ARGUMENT ? undefined : told;
    if (answer.status === DEADLINE_EXCEEDED && ENDLESS.test(method.path)) return undefined;
    return answer.status === OK || (REFUSALS.has(answer.status) && answer.code !== "") ? undefined : told;
  }

  #send({ path, streams }: ProtoMethod, bytes: Uint8Array): Promise<Answer> {
    const deadline = Date.now() + (ENDLESS.test(path) ? ENDLESS_MS : DEADLINE_MS);
    const write = (value: Buffer): Buffer => value;
    return new Promise((resolve) => {
      const refused = ({ code, details, metadata }: ServiceError): void =>
        resolve({ status: code, code: String(metadata.get("minke-code")[0] ?? ""), message: details });
      if (!streams) {
        this.#raw.makeUnaryRequest(
          path,
          write,
          (value) => value,
          Buffer.from(bytes),
          { deadline },
          (err, answer) => (err ? refused(err) : resolve({ status: OK, code: "", message: "", bytes: answer })),
        );
        return;
      }
      const call = this.#raw.makeServerStreamRequest(path, write, (value) => value, Buffer.from(bytes), { deadline });
      call.on("data", () => undefined);
      call.on("error", (err) => refused(err as ServiceError));
      call.on("end", () => resolve({ status: OK, code: "", message: "" }));
    });
  }

  /** A request of this method that does well: on what there is, or on nothing where the verb would end it. */
  async #sound({ path, request }: ProtoMethod): Promise<Tree> {
    const ends = /\/(Stop|Remove)/.test(path);
    const metadata = { name: `nonsense-${this.#made++}`, uid: "u", namespace: "test" };
    if (request === "RunPodSandboxRequest") {
      const cgroup = `/${this.#daemon.cgroupRoot}/${PARENTS}`;
      return {
        config: { metadata, log_directory: this.#logDirectory, linux: { cgroup_parent: cgroup } },
      };
    }
    if (/Checkpoint|RestorePod|Runtime|Version|Status(Request)?$|List|Stream|GetEvents|ImageFs/.test(request)) {
      if (!/^(ContainerStatus|PodSandboxStatus)Request$/.test(request)) return {};
    }
    if (/Image/.test(request)) {
      const { port } = this.#registry.address() as AddressInfo;
      return { image: { image: `127.0.0.1:${port}/image:1` } };
    }
    const ids: Tree = ends
      ? { container_id: "no-such-container", pod_sandbox_id: "no-such-sandbox" }
      : { container_id: await this.#running(), pod_sandbox_id: this.#sandbox };
    const command = { cmd: ["true"], stdout: true, port: [80n] };
    if (request === "ExecSyncRequest") return { ...ids, ...command, timeout: 10n };
    if (request !== "CreateContainerRequest") return { ...ids, ...command };
    return {
      ...ids,
      config: { metadata, image: { image: "minke.test/busybox:1" }, command: ["sleep", "1000"], log_path: "log" },
    };
  }

  /** A container that runs: nonsense may have ended the last one. */
  async #running(): Promise<string> {
    this.#sandbox ??= await this.#cri.runSandbox({ logDirectory: this.#logDirectory });
    if (this.#container !== undefined) {
      const { state } = await this.#cri.status(this.#container);
      if (state === RUNNING) return this.#container;
      await this.#cri.call("removeContainer", { containerId: this.#container });
    }
    this.#container = await this.#cri.startContainer(this.#sandbox);
    return this.#container;
  }

  /** A container that could be created is started too: its plan is the native code's. */
  async #undo({ path }: ProtoMethod, bytes: Buffer | undefined): Promise<string | undefined> {
    if (path.endsWith("/RunPodSandbox")) {
      const { podSandboxId } = METHODS.runPodSandbox.responseType.decode(bytes ?? Buffer.alloc(0));
      await this.#cri.removeSandbox(podSandboxId);
    }
    if (!path.endsWith("/CreateContainer")) return undefined;
    const { containerId } = METHODS.createContainer.responseType.decode(bytes ?? Buffer.alloc(0));
    const started = await this.#cri.call("startContainer", { containerId }).then(
      () => undefined,
      ({ code, details }: ServiceError) => ({ code, details }),
    );
    await this.#cri.call("removeContainer", { containerId });
    return started && !REFUSALS.has(started.code) ? `its start: status ${started.code} ${started.details}` : undefined;
  }
}

/** Cgroup parents below it stay, as a kubelet's do, which makes and removes them itself. */
const PARENTS = "pods/nonsense";

/** Removes folders that hold none but folders, in which there is no sandbox's. */
function removeParents(folder: string): void {
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder, { withFileTypes: true })) {
    if (!name.isDirectory()) continue;
    if (/^[0-9a-f]{64}$/.test(name.name)) throw new Error(`left over: cgroup ${name.name}`);
    removeParents(join(folder, name.name));
  }
  rmdirSync(folder);
}

/** ContainerState.CONTAINER_RUNNING. */
const RUNNING = 1;
