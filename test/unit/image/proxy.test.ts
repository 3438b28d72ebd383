import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { proxyOf } from "../../../src/image/proxy.js";

beforeEach(() => {
  for (const name of ["http_proxy", "https_proxy", "no_proxy"]) {
    vi.stubEnv(name, "");
    vi.stubEnv(name.toUpperCase(), "");
  }
  vi.stubEnv("http_proxy", "http://u:p@plain.proxy:3128");
  vi.stubEnv("HTTPS_PROXY", "secure.proxy:3129");
});
afterEach(() => vi.unstubAllEnvs());

const hostFor = (address: string) => proxyOf(new URL(address))?.host;

test("each scheme has its proxy, and an address without a scheme is one of HTTP", () => {
  expect(hostFor("http://a.example/v2")).toBe("plain.proxy:3128");
  expect(hostFor("https://a.example/v2")).toBe("secure.proxy:3129");
  expect(proxyOf(new URL("https://a.example"))?.protocol).toBe("http:");
});

test.each(["http://localhost", "http://127.0.0.1:5000", "http://127.8.9.1", "https://[::1]:5000"])(
  "%s is reached directly",
  (address) => {
    expect(hostFor(address)).toBeUndefined();
  },
);

test.each<[string, string, boolean]>([
  ["*", "https://a.example", true],
  ["other.example, *", "https://a.example", true],
  ["example", "https://a.example", true],
  ["a.example", "https://a.example", true],
  ["a.example", "https://ba.example", false],
  ["A.Example", "https://a.example", true],
  [".example", "https://a.example", true],
  ["*.example", "https://a.example", true],
  [".a.example", "https://a.example", false],
  ["a.example:5000", "https://a.example:5000", true],
  ["a.example:5000", "https://a.example", false],
  ["a.example:443", "https://a.example", true],
  ["a.example:80", "http://a.example", true],
  ["10.0.0.0/8", "https://10.200.3.4:5000", true],
  ["10.0.0.0/8", "https://11.0.0.1", false],
  ["10.0.0.0/8", "https://10.example", false],
  ["192.0.2.7", "https://192.0.2.7", true],
  ["192.0.2.7", "https://192.0.2.77", false],
  ["192.0.2.7:5000", "https://192.0.2.7:5000", true],
  ["192.0.2.7:5000", "https://192.0.2.7", false],
  ["fd00::/8", "https://[fd12::1]:5000", true],
  ["fd00::/8", "https://[fe80::1]", false],
  ["fd12::1", "https://[fd12::1]", true],
  ["fd12:0:0::1", "https://[fd12::1]", true],
  ["[fd12::1]:5000", "https://[fd12::1]:5000", true],
  ["[fd12::1]:5000", "https://[fd12::1]", false],
  ["10.0.0.0/99", "https://10.0.0.1", false],
  ["/8, :, :5000, [", "https://a.example", false],
])("no_proxy %s, %s: directly %s", (noProxy, address, isDirect) => {
  vi.stubEnv("NO_PROXY", noProxy);
  expect(hostFor(address) === undefined).toBe(isDirect);
});
