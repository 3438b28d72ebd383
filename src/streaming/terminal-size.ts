/**
 * Sizes of a client's terminal, `{"Width":80,"Height":24}` (client-go remotecommand, TerminalSize).
 */

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** `undefined` for what is no size. */
export function parseTerminalSize(text: string): TerminalSize | undefined {
  try {
    const size: unknown = JSON.parse(text);
    if (typeof size !== "object" || size === null || !("Width" in size) || !("Height" in size)) return undefined;
    const [columns, rows] = [Number(size.Width), Number(size.Height)];
    return isDimension(columns) && isDimension(rows) ? { columns, rows } : undefined;
  } catch {
    return undefined;
  }
}

// A window size is four shorts to the kernel (ioctl_tty(2), struct winsize).
const isDimension = (value: number): boolean => Number.isInteger(value) && value > 0 && value <= 0xffff;
