export async function startContainerd() {
  return undefined;
}
