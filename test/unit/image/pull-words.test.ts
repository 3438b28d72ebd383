import { expect, test } from "vitest";
import { PULL_WORD_BY_CODE } from "../../../src/image/pull-words.js";

test("the reasons that CRI has words for have them", () => {
  // cri-api pkg/errors/errors.go
  expect(PULL_WORD_BY_CODE).toEqual({
    REGISTRY_UNAVAILABLE: "RegistryUnavailable",
    IMAGE_SIGNATURE_INVALID: "SignatureValidationFailed",
  });
});
