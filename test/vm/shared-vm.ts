/** The machine of the run, as a test file sees it. */
import { afterAll, beforeAll, inject } from "vitest";
import { Vm } from "./machine/boot.js";

/** How long another file may keep it. */
const TURN_MS = 20 * 60_000;

/** Connects before the file's first test, when it is its turn; call it at the top of a file. */
export function sharedVm(): () => Vm {
  let vm: Vm | undefined;
  beforeAll(async () => {
    vm = await Vm.connect(inject("vm"), TURN_MS);
  }, TURN_MS + 60_000);
  afterAll(() => vm?.disconnect());
  return () => {
    if (!vm) throw new Error("the VM is reached in tests and hooks only");
    return vm;
  };
}
