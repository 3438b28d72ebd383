import { expect, test } from "vitest";
import { CleanupStack } from "../../../src/base/cleanup.js";

test("unwind runs the undo steps newest first and reports those that failed", async () => {
  const order: string[] = [];
  const stack = new CleanupStack();
  stack.push("remove a", () => void order.push("a"));
  stack.push("remove b", () => {
    order.push("b");
    throw new Error("no");
  });
  stack.push("remove c", async () => void order.push("c"));
  const failed = await stack.unwind();
  expect(order).toEqual(["c", "b", "a"]);
  expect(failed.map(({ step }) => step)).toEqual(["remove b"]);
});

test("unwind gives up on a step that hangs and goes on with the next", async () => {
  const stack = new CleanupStack();
  let isDone = false;
  stack.push("remove a", () => void (isDone = true));
  stack.push("remove b", () => new Promise(() => undefined));
  expect((await stack.unwind(10)).map(({ step }) => step)).toEqual(["remove b"]);
  expect(isDone).toBe(true);
});

test("unwind after commit does nothing", async () => {
  const stack = new CleanupStack();
  stack.push("remove a", () => expect.unreachable());
  stack.commit();
  expect(await stack.unwind()).toEqual([]);
});
