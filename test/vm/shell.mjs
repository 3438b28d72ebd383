/**
 * A root shell in a machine that was kept: `node test/vm/shell.mjs SOCKET`. Ctrl-] leaves it.
 */
import { connect } from "node:net";

const [path] = process.argv.slice(2);
if (!path) {
  console.error("usage: node test/vm/shell.mjs SOCKET");
  process.exit(2);
}
const socket = connect(path);
const CTRL_RIGHT_BRACKET = 0x1d;

const end = (text) => {
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  console.log(`\n${text}`);
  process.exit(0);
};
socket.on("connect", () => {
  if (process.stdin.isTTY) process.stdin.setRawMode(true);
  console.log("a root shell in the VM; Ctrl-] leaves it");
  socket.write("\n");
});
socket.on("data", (bytes) => process.stdout.write(bytes));
socket.on("error", (error) => end(error.message));
socket.on("close", () => end("the VM has ended"));
process.stdin.on("data", (bytes) => {
  if (process.stdin.isTTY && bytes.includes(CTRL_RIGHT_BRACKET)) end("left the shell");
  socket.write(bytes);
});
process.stdin.on("end", () => end("end of input"));
