/**
 * An NRI plugin as a folder has them: it speaks over descriptor 3, and writes what it hears of, one line
 * each, to the file that its configuration names. Ends at a pod of the name `die`. One that is called `deaf`
 * ends neither with its connection nor by SIGTERM, and has a child in a session of its own: `child PID`.
 */
import { spawn } from "node:child_process";
import { appendFileSync } from "node:fs";
import { Socket } from "node:net";
import {
  ConfigureRequest,
  ConfigureResponse,
  RegisterPluginRequest,
  RunPodSandboxRequest,
  SynchronizeResponse,
} from "../../../dist/nri/generated/nri/v1alpha1/nri.js";
import { Multiplex } from "../../../dist/nri/multiplex.js";
import { TtrpcClient, TtrpcServer } from "../../../dist/nri/ttrpc.js";

let file = "";
const isDeaf = process.env.NRI_PLUGIN_NAME === "deaf";
if (isDeaf) {
  process.on("SIGTERM", () => undefined);
  setInterval(() => undefined, 1000);
}
const multiplex = new Multiplex(new Socket({ fd: Number(process.env.NRI_PLUGIN_SOCKET) }), {
  onPayload: (connection, payload) => (connection === 1 ? server : runtime).take(payload),
  onClose: () => isDeaf || process.exit(0),
});
const server = new TtrpcServer(
  "nri.pkg.api.v1alpha1.Plugin",
  {
    Configure: async (payload) => {
      file = ConfigureRequest.decode(payload).config;
      appendFileSync(file, `${process.pid} ${Object.keys(process.env).toSorted().join(" ")}\n`);
      if (isDeaf) {
        const child = spawn("sleep", ["1000"], { detached: true, stdio: "ignore" });
        appendFileSync(file, `child ${child.pid}\n`);
      }
      return ConfigureResponse.encode(ConfigureResponse.fromPartial({ events: 1 })).finish();
    },
    Synchronize: async () => SynchronizeResponse.encode(SynchronizeResponse.fromPartial({})).finish(),
    RunPodSandbox: async (payload) => {
      const { name } = RunPodSandboxRequest.decode(payload).pod;
      if (name === "die") {
        process.stderr.write("told to\n");
        process.exit(3);
      }
      appendFileSync(file, `${name}\n`);
      return new Uint8Array();
    },
  },
  (message) => multiplex.send(1, message),
);
const runtime = new TtrpcClient("nri.pkg.api.v1alpha1.Runtime", (message) => multiplex.send(2, message));
const request = RegisterPluginRequest.fromPartial({ pluginName: "whatever", pluginIdx: "99" });
await runtime.call("RegisterPlugin", RegisterPluginRequest.encode(request).finish(), 60_000);
