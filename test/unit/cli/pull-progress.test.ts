import { expect, test } from "vitest";
import { PullProgress } from "../../../src/cli/pull-progress.js";

function recorded(terminal: { columns: number; rows: number } | undefined) {
  let text = "";
  let nowMs = 0;
  const output = { isTTY: terminal !== undefined, ...terminal, write: (piece: string) => (text += piece) };
  const progress = new PullProgress(output, () => nowMs);
  return { progress, text: () => text, pass: (ms: number) => (nowMs += ms) };
}

const LAYER = { digest: `sha256:${"a".repeat(64)}`, totalBytes: 2048 };

test("without a terminal there is a plain line for each change of state", () => {
  const { progress, text } = recorded(undefined);
  for (const currentBytes of [0, 512, 1024]) progress.show({ ...LAYER, state: "pulling", currentBytes });
  progress.show({ ...LAYER, state: "done", currentBytes: 2048 });
  progress.end();
  expect(text()).toBe("aaaaaaaaaaaa: pulling\naaaaaaaaaaaa: done 2.0 KiB of 2.0 KiB\n");
});

test("on a terminal a bar is drawn over, ten times a second at most", () => {
  const { progress, text, pass } = recorded({ columns: 100, rows: 24 });
  progress.show({ ...LAYER, state: "pulling", currentBytes: 0 });
  const first = text().length;
  progress.show({ ...LAYER, state: "pulling", currentBytes: 512 });
  expect(text().length).toBe(first);
  pass(100);
  progress.show({ ...LAYER, state: "pulling", currentBytes: 1024 });
  expect(text().slice(first)).toBe(
    "\u001b[1A\u001b[Jaaaaaaaaaaaa [===============>              ] pulling  1.0 KiB of 2.0 KiB\n",
  );
});

test("more layers than the screen has rows are summed up", () => {
  const { progress, text, pass } = recorded({ columns: 60, rows: 6 });
  for (let i = 0; i < 10; i++) {
    pass(1000);
    progress.show({
      digest: `sha256:${i}${"b".repeat(63)}`,
      totalBytes: 10,
      state: i < 4 ? "done" : "pulling",
      currentBytes: 5,
    });
  }
  const last = text().split("\u001b[J").at(-1) ?? "";
  expect(last.trimEnd().split("\n")).toHaveLength(4);
  expect(last).toContain("4 of 10 layers are here");
  for (const line of last.split("\n")) expect(line.length).toBeLessThan(60);
});

test("a terminal that does not know its size is one of 24 rows and 80 columns", () => {
  const { progress, text } = recorded({ columns: 0, rows: 0 });
  for (const fill of ["a", "b"]) {
    progress.show({ digest: `sha256:${fill.repeat(64)}`, totalBytes: 10, state: "pulling", currentBytes: 5 });
  }
  expect(text().split("\u001b[J").at(-1)?.match(/\[=+>/g)).toHaveLength(2);
});
