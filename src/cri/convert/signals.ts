/**
 * CRI's Signal enum and signal names, both ways. Pure.
 */
import { Signal } from "../generated/runtime/v1/api.js";
import { invalidField } from "./fields.js";

/** `SIGNAL_SIGRTMINPLUS3` <-> `SIGRTMIN+3` */
const nameOf = (member: string): string =>
  member
    .replace(/^SIGNAL_/, "")
    .replace("PLUS", "+")
    .replace("MINUS", "-");

const NAMES = new Map(
  Object.entries(Signal)
    .filter(([member, value]) => typeof value === "number" && value > 0 && member.startsWith("SIGNAL_"))
    .map(([member, value]) => [value as number, nameOf(member)]),
);
const NUMBERS = new Map(Array.from(NAMES, ([value, name]) => [name, value]));

/** `undefined` for the runtime's default. @throws RuntimeError `invalid-argument` INVALID_FIELD */
export function toSignalName(signal: Signal, field: string): string | undefined {
  if (signal === Signal.SIGNAL_RUNTIME_DEFAULT) return undefined;
  const name = NAMES.get(signal);
  if (name === undefined) throw invalidField(field, `${signal} is no signal`);
  return name;
}

/** Of any spelling that an image may use; what CRI has no word for is the default. */
export function toCriSignal(text: string): Signal {
  const upper = text.toUpperCase();
  return (NUMBERS.get(upper) ?? NUMBERS.get(`SIG${upper}`) ?? Signal.SIGNAL_RUNTIME_DEFAULT) as Signal;
}
