/**
 * Columns as kubectl prints them, ages as it counts them.
 */

/** Left-aligned columns, three spaces apart. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  return all
    .map((row) =>
      row
        .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd((widths[column] ?? 0) + 3)))
        .join("")
        .trimEnd(),
    )
    .join("\n");
}

const UNITS = [
  ["y", 365 * 86_400],
  ["d", 86_400],
  ["h", 3_600],
  ["m", 60],
  ["s", 1],
] as const;

/** `5s`, `3m12s`, `2h5m`, `4d`, `2y40d` (apimachinery duration.HumanDuration, simplified). */
export function age(since: string | undefined, nowMs = Date.now()): string {
  if (!since) return "<unknown>";
  const seconds = Math.max(0, Math.floor((nowMs - Date.parse(since)) / 1000));
  const index = UNITS.findIndex(([, size]) => seconds >= size);
  if (index < 0) return "0s";
  const [unit, size] = UNITS[index] ?? ["s", 1];
  const amount = Math.floor(seconds / size);
  const next = UNITS[index + 1];
  if (!next || amount >= 10) return `${amount}${unit}`;
  const rest = Math.floor((seconds % size) / next[1]);
  return rest === 0 ? `${amount}${unit}` : `${amount}${unit}${rest}${next[0]}`;
}

/** `1 image`, `2 images`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** `1.5 MiB`. */
export function bytes(count: number): string {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let name = 0;
  while (value >= 1024 && name < names.length - 1) {
    value /= 1024;
    name += 1;
  }
  return `${name === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${names[name]}`;
}

/** Nanoseconds as `12.3 ms`. */
export function milliseconds(ns: bigint): string {
  return `${(Number(ns) / 1e6).toFixed(1)} ms`;
}
