/**
 * How a pull shows itself on standard error: on a terminal a bar for each layer, redrawn in
 * place; elsewhere a line for each change of a layer's state, so that a log stays readable.
 */
import { bytes } from "./table.js";

/** What the image store says of a layer (`LayerProgress` of src/image); what is absent is not shown. */
export interface Progress {
  readonly digest?: string;
  readonly state?: string;
  readonly currentBytes?: number;
  readonly totalBytes?: number;
}

/** The part of a terminal or file that is written to. */
export interface ProgressOutput {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
  write(text: string): unknown;
}

const REDRAW_EVERY_MS = 100;
const BAR_COLUMNS = 30;
const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;

export class PullProgress {
  readonly #output: ProgressOutput;
  readonly #nowMs: () => number;
  readonly #layers = new Map<string, Progress>();
  #drawnLines = 0;
  #drawnAtMs = Number.NEGATIVE_INFINITY;

  constructor(output: ProgressOutput = process.stderr, nowMs: () => number = () => performance.now()) {
    this.#output = output;
    this.#nowMs = nowMs;
  }

  show(progress: Progress): void {
    const key = progress.digest ?? "";
    const before = this.#layers.get(key);
    const merged = { ...before, ...progress };
    this.#layers.set(key, merged);
    const isNewState = before?.state !== progress.state;
    if (!this.#output.isTTY) {
      if (isNewState && progress.state) this.#output.write(`${lineOf(merged)}\n`);
    } else if (isNewState || this.#nowMs() - this.#drawnAtMs >= REDRAW_EVERY_MS) {
      this.#redraw();
    }
  }

  /** Leaves the last state on the screen. */
  end(): void {
    if (this.#output.isTTY && this.#layers.size > 0) this.#redraw();
    this.#layers.clear();
    this.#drawnLines = 0;
  }

  #redraw(): void {
    this.#drawnAtMs = this.#nowMs();
    // More lines than the screen has cannot be gone back over.
    const room = Math.max((this.#output.rows || DEFAULT_ROWS) - 2, 1);
    const layers = [...this.#layers.values()];
    const shown = layers.length <= room ? layers : layers.filter(({ state }) => !isEnded(state)).slice(0, room - 1);
    const lines = shown.map((progress) => barOf(progress));
    if (shown.length < layers.length) {
      lines.push(`${layers.filter(({ state }) => isEnded(state)).length} of ${layers.length} layers are here`);
    }
    const columns = (this.#output.columns || DEFAULT_COLUMNS) - 1;
    const up = this.#drawnLines > 0 ? `\u001b[${this.#drawnLines}A` : "";
    // Clears to the end of the screen: there may be fewer lines than before.
    this.#output.write(`${up}\u001b[J${lines.map((line) => `${line.slice(0, columns)}\n`).join("")}`);
    this.#drawnLines = lines.length;
  }
}

function isEnded(state: string | undefined): boolean {
  return state === "done" || state === "present";
}

function nameOf(digest: string | undefined): string {
  return digest ? digest.replace("sha256:", "").slice(0, 12) : "image";
}

function amountOf({ currentBytes, totalBytes }: Progress): string {
  return currentBytes ? ` ${bytes(currentBytes)}${totalBytes ? ` of ${bytes(totalBytes)}` : ""}` : "";
}

function lineOf(progress: Progress): string {
  return `${nameOf(progress.digest)}: ${progress.state ?? ""}${amountOf(progress)}`;
}

function barOf(progress: Progress): string {
  const { currentBytes = 0, totalBytes = 0 } = progress;
  const share = isEnded(progress.state) ? 1 : totalBytes > 0 ? Math.min(currentBytes / totalBytes, 1) : 0;
  const filled = Math.round(share * BAR_COLUMNS);
  const bar = `${"=".repeat(filled)}${filled < BAR_COLUMNS ? ">" : ""}`.slice(0, BAR_COLUMNS).padEnd(BAR_COLUMNS);
  return `${nameOf(progress.digest)} [${bar}] ${(progress.state ?? "").padEnd(8)}${amountOf(progress)}`;
}
