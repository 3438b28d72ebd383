import { expect, test } from "vitest";
import { newSandboxId, type SandboxId } from "../../../src/base/ids.js";
import { RuntimeError } from "../../../src/base/errors.js";
import type { RuntimeContext } from "../../../src/runtime/context.js";
import { takeIdMaps } from "../../../src/runtime/user-namespaces.js";
import type { IdMaps, SandboxConfig } from "../../../src/state/sandbox.js";

const OWN = { network: "pod", pid: "pod", ipc: "pod" } as const;

function context(recorded: IdMaps[] = [], hasUserNamespaces = true): RuntimeContext {
  return {
    host: { hasUserNamespaces },
    idRanges: { firstId: 100_000, idsPerPod: 1000, maxPods: 3 },
    takenIds: new Map(),
    sandboxes: { list: () => recorded.map((idMaps) => ({ id: newSandboxId(), body: { idMaps } })) },
  } as unknown as RuntimeContext;
}

const config = (userNamespace: IdMaps | "any", namespaces: object = OWN) =>
  ({ userNamespace, namespaces }) as unknown as SandboxConfig;
const range = (hostId: number, length = 1000): IdMaps => ({
  uids: [{ hostId, containerId: 0, length }],
  gids: [{ hostId, containerId: 0, length }],
});
const take = (ctx: RuntimeContext, id: SandboxId = newSandboxId()) => takeIdMaps(ctx, id, config("any"));

function refusal(work: () => unknown): unknown {
  try {
    return work();
  } catch (err) {
    return err instanceof RuntimeError ? [err.kind, err.code] : err;
  }
}

test("takeIdMaps gives ids that no record has, also where a record's overlap only in part or by gid", () => {
  expect(take(context([range(100_000), range(102_000)]))).toEqual(range(101_000));
  expect(take(context([range(99_999, 2)]))).toEqual(range(101_000));
  expect(take(context([{ uids: range(5, 1).uids, gids: range(100_500, 1).gids }]))).toEqual(range(101_000));
});

test("takeIdMaps of two at once gives two ranges, before either is recorded", () => {
  const ctx = context();
  expect([take(ctx), take(ctx)]).toEqual([range(100_000), range(101_000)]);
});

test("takeIdMaps counts what is given back as free", () => {
  const ctx = context();
  const id = newSandboxId();
  take(ctx, id);
  ctx.takenIds.delete(id);
  expect(take(ctx)).toEqual(range(100_000));
});

test("takeIdMaps with every range in use is resource-exhausted IDS_EXHAUSTED", () => {
  const ctx = context([range(100_000, 3000)]);
  expect(refusal(() => take(ctx))).toEqual(["resource-exhausted", "IDS_EXHAUSTED"]);
});

test("takeIdMaps keeps the caller's maps, and gives none where none are asked for", () => {
  const ctx = context();
  expect(takeIdMaps(ctx, newSandboxId(), config(range(7)))).toEqual(range(7));
  expect(takeIdMaps(ctx, newSandboxId(), { namespaces: OWN } as unknown as SandboxConfig)).toBeUndefined();
});

test("takeIdMaps beside a namespace of the host, or on a kernel without, is USER_NAMESPACE_REFUSED", () => {
  const refused = ["failed-precondition", "USER_NAMESPACE_REFUSED"];
  const beside = config("any", { ...OWN, pid: "node" });
  expect(refusal(() => takeIdMaps(context(), newSandboxId(), beside))).toEqual(refused);
  expect(refusal(() => take(context([], false)))).toEqual(refused);
});
