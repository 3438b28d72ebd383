/**
 * The library as another program imports it: by the package's name, through its `exports`.
 */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const project = fileURLToPath(new URL("../..", import.meta.url));

function evaluate(code: string): string {
  return execFileSync(process.execPath, ["--input-type=module", "--eval", code], { cwd: project, encoding: "utf8" });
}

test("import of minke offers a client that says DAEMON_UNREACHABLE where no daemon runs", () => {
  const code = `
    import { connect } from "minke";
    try {
      const client = await connect({ run: "/nowhere/minke", startDaemon: false });
      await client.listPods();
    } catch (err) {
      console.log(err.kind, err.code);
    }`;
  expect(evaluate(code)).toBe("unavailable DAEMON_UNREACHABLE\n");
});

test("import of minke/oci-spec-types offers the version of the runtime spec", () => {
  expect(
    evaluate('import { RUNTIME_SPEC_VERSION } from "minke/oci-spec-types"; console.log(RUNTIME_SPEC_VERSION);'),
  ).toBe("1.3.0\n");
});

test("any other path into the package is closed", () => {
  expect(() => evaluate('import "minke/dist/main.js";')).toThrow(/ERR_PACKAGE_PATH_NOT_EXPORTED/);
});
