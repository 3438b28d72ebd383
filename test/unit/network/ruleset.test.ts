import { describe, expect, test } from "vitest";
import { type HostPort, portEntries } from "../../../src/network/ruleset.js";

const IPS = ["10.88.0.2", "fd00::2"];
const port = (fields: Partial<HostPort>): HostPort => ({
  protocol: "tcp",
  hostIp: "",
  hostPort: 8080,
  containerPort: 80,
  ...fields,
});
const maps = (fields: Partial<HostPort>): string[] => portEntries([port(fields)], IPS).map(({ map }) => map);

describe("portEntries", () => {
  test("without a host address is in the map of each family", () => {
    expect(maps({})).toEqual(["ports4", "ports6"]);
  });

  test("of a wildcard address is in the map of its family only", () => {
    expect(maps({ hostIp: "0.0.0.0" })).toEqual(["ports4"]);
    expect(maps({ hostIp: "::" })).toEqual(["ports6"]);
  });

  test("of one address is in the map by address, keyed by address, protocol and port", () => {
    const [entry] = portEntries([port({ hostIp: "127.0.0.1", protocol: "udp" })], IPS);
    expect(entry?.map).toBe("ports4_at");
    expect(entry?.element.key.map((field) => field.toString("hex"))).toEqual(["7f000001", "11", "1f90"]);
    expect(entry?.element.value.map((field) => field.toString("hex"))).toEqual(["0a580002", "0050"]);
  });

  test("without a host port is nowhere", () => {
    expect(maps({ hostPort: 0 })).toEqual([]);
  });
});
