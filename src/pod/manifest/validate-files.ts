/**
 * The rules of volumes that are made of files: configMap, secret, downwardAPI, projected.
 */
import { parseQuantity } from "./quantity.js";
import type { FileSource, PodVolume, ResourceFieldRef } from "./schema.js";
import type { Add } from "./validate.js";

export function checkResourceRef(ref: ResourceFieldRef, path: string, add: Add): void {
  if (!/^(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-\w+)$/.test(ref.resource))
    add(`${path}.resource`, `"${ref.resource}" is not supported`);
  if (ref.divisor !== undefined && !((parseQuantity(ref.divisor) ?? -1) >= 0))
    add(`${path}.divisor`, `"${ref.divisor}" is not a quantity`);
}

/** Files of a configMap, secret, downwardAPI or projected volume. */
export function checkFiles(volume: PodVolume, path: string, add: Add): void {
  const { configMap, secret, downwardAPI, projected } = volume;
  const check = (kind: string, items: readonly { path: string; mode?: number | null | undefined }[] | undefined) =>
    items?.forEach((item, i) => {
      const at = `${path}.${kind}.items[${i}]`;
      if (
        item.path === "" ||
        item.path.startsWith("/") ||
        /(^|\/)\.\.(\/|$)/.test(item.path) ||
        item.path.startsWith("..")
      )
        add(`${at}.path`, `"${item.path}" must be relative and without ".."`);
      checkMode(item.mode, `${at}.mode`, add);
    });
  const checkFields = (kind: string, items: NonNullable<FileSource["downwardAPI"]>["items"]) =>
    items?.forEach(({ fieldRef, resourceFieldRef }, i) => {
      const at = `${path}.${kind}.items[${i}]`;
      if ((fieldRef === undefined) === (resourceFieldRef === undefined))
        add(at, "one of fieldRef and resourceFieldRef is required");
      if (fieldRef && !VOLUME_FIELD_PATH.test(fieldRef.fieldPath))
        add(`${at}.fieldRef.fieldPath`, `"${fieldRef.fieldPath}" is not supported`);
      if (resourceFieldRef && !resourceFieldRef.containerName) add(`${at}.resourceFieldRef.containerName`, "required");
      if (resourceFieldRef) checkResourceRef(resourceFieldRef, `${at}.resourceFieldRef`, add);
    });
  for (const [kind, source] of Object.entries({ configMap, secret, downwardAPI, projected }))
    checkMode(source?.defaultMode, `${path}.${kind}.defaultMode`, add);
  check("configMap", configMap?.items);
  check("secret", secret?.items);
  check("downwardAPI", downwardAPI?.items);
  checkFields("downwardAPI", downwardAPI?.items);
  projected?.sources.forEach((source, i) => {
    if (Object.values(source).filter((one) => one !== undefined).length !== 1)
      add(`${path}.projected.sources[${i}]`, "exactly one source is required");
    check(`projected.sources[${i}].configMap`, source.configMap?.items);
    check(`projected.sources[${i}].secret`, source.secret?.items);
    check(`projected.sources[${i}].downwardAPI`, source.downwardAPI?.items);
    checkFields(`projected.sources[${i}].downwardAPI`, source.downwardAPI?.items);
  });
}

const VOLUME_FIELD_PATH =
  /^metadata\.(name|namespace|uid|labels|annotations|labels\['[^']+'\]|annotations\['[^']+'\])$/;

function checkMode(mode: number | null | undefined, path: string, add: Add): void {
  if (mode !== undefined && mode !== null && (mode < 0 || mode > 0o777)) add(path, "must be between 0 and 0777");
}
