/**
 * Client side of portforward: one WebSocket for one connection to a port of a pod.
 */
import { createConnection } from "node:net";
import { Duplex } from "node:stream";
import { WebSocket } from "ws";
import { socketAddress } from "../api/unix-socket.js";
import { RuntimeError } from "../base/errors.js";
import { channelFrame } from "../streaming/channels.js";
import { opened } from "./exec.js";

const DATA_CHANNEL = 0;
/** Each channel begins with the port, two bytes. */
const PREFIX_BYTES = 2;

/** @param path with its query, of a pod's `portforward` with one port */
export async function openPort(socketPath: string, path: string): Promise<Duplex> {
  const target = await socketAddress(socketPath);
  const socket = new WebSocket(`ws://minke${path}`, ["v4.channel.k8s.io"], {
    perMessageDeflate: false,
    createConnection: () => createConnection(target.address),
  });
  const stream = streamOf(socket);
  // Until somebody listens, a broken connection is no uncaught error: it shows in `opened`.
  stream.on("error", () => undefined);
  try {
    await opened(socket, socketPath);
  } finally {
    await target.close();
  }
  return stream;
}

function streamOf(socket: WebSocket): Duplex {
  const unread = [PREFIX_BYTES, PREFIX_BYTES];
  const stream = new Duplex({
    read: () => socket.resume(),
    write: (chunk: Buffer, _encoding, done) => socket.send(channelFrame(DATA_CHANNEL, chunk), () => done()),
    destroy: (err, done) => {
      socket.close();
      done(err);
    },
  });
  socket.on("message", (message: Buffer) => {
    const channel = message[0] === DATA_CHANNEL ? 0 : 1;
    const skipped = Math.min(unread[channel] ?? 0, message.length - 1);
    unread[channel] = (unread[channel] ?? 0) - skipped;
    const payload = message.subarray(1 + skipped);
    if (payload.length === 0) return;
    if (channel === 0) {
      if (!stream.push(payload)) socket.pause();
    } else {
      stream.destroy(new RuntimeError(payload.toString("utf8"), { kind: "unavailable", code: "PORT_NOT_REACHABLE" }));
    }
  });
  socket.on("error", () => undefined);
  socket.on("close", () => stream.push(null));
  return stream;
}
