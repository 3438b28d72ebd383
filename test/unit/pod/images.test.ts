/** Pull policies, as Kubernetes has them (Images, "Image pull policy"). */
import { expect, test } from "vitest";
import { imagesOf, type PullPolicy } from "../../../src/pod/images.js";

const HERE = { id: "sha256:old", repoDigests: [], config: {} };
const THERE = { id: "sha256:new", repoDigests: ["minke.test/a@sha256:new"], config: { user: "app" } };

function ensure(policy: PullPolicy, isHere: boolean) {
  const pulled: string[] = [];
  const images = imagesOf({
    resolve: () => (isHere ? HERE : undefined),
    pull: async (reference) => {
      pulled.push(reference);
      return THERE;
    },
  });
  return { pulled, ensured: images.ensure("minke.test/a:1", policy, new AbortController().signal) };
}

test.each<[PullPolicy, boolean, boolean]>([
  ["Always", true, true],
  ["Always", false, true],
  ["IfNotPresent", true, false],
  ["IfNotPresent", false, true],
  ["Never", true, false],
])("%s with an image here (%s) pulls: %s", async (policy, isHere, pulls) => {
  const { pulled, ensured } = ensure(policy, isHere);
  expect(await ensured).toEqual(
    pulls
      ? { id: THERE.id, digestReference: THERE.repoDigests[0], user: "app", wasPulled: true }
      : { id: HERE.id, digestReference: HERE.id, user: "", wasPulled: false },
  );
  expect(pulled).toEqual(pulls ? ["minke.test/a:1"] : []);
});

test("Never without an image is an error that says so, and asks nobody", async () => {
  const { pulled, ensured } = ensure("Never", false);
  await expect(ensured).rejects.toMatchObject({ kind: "not-found", code: "IMAGE_NOT_FOUND" });
  expect(pulled).toEqual([]);
});
