/**
 * What a Kubernetes client asks first: versions, groups and resources of the server.
 */
import { arch } from "node:os";
import type { ServerResponse } from "node:http";
import { type ApiRequest, answer } from "./request.js";

type Route = (request: ApiRequest, response: ServerResponse) => void;

/** The Kubernetes API version whose Pod we speak. */
const KUBERNETES = { major: "1", minor: "36" } as const;

const CONFIG_VERBS = ["create", "delete", "get", "list", "update"];

const RESOURCES = [
  {
    name: "configmaps",
    singularName: "configmap",
    namespaced: true,
    kind: "ConfigMap",
    verbs: CONFIG_VERBS,
    shortNames: ["cm"],
  },
  { name: "events", singularName: "event", namespaced: true, kind: "Event", verbs: ["list"], shortNames: ["ev"] },
  {
    name: "namespaces",
    singularName: "namespace",
    namespaced: false,
    kind: "Namespace",
    verbs: ["get", "list"],
    shortNames: ["ns"],
  },
  {
    name: "pods",
    singularName: "pod",
    namespaced: true,
    kind: "Pod",
    verbs: ["create", "delete", "get", "list", "watch"],
    shortNames: ["po"],
  },
  { name: "secrets", singularName: "secret", namespaced: true, kind: "Secret", verbs: CONFIG_VERBS },
  { name: "pods/attach", singularName: "", namespaced: true, kind: "PodAttachOptions", verbs: ["create", "get"] },
  { name: "pods/exec", singularName: "", namespaced: true, kind: "PodExecOptions", verbs: ["create", "get"] },
  { name: "pods/log", singularName: "", namespaced: true, kind: "Pod", verbs: ["get"] },
  {
    name: "pods/portforward",
    singularName: "",
    namespaced: true,
    kind: "PodPortForwardOptions",
    verbs: ["create", "get"],
  },
];

export function discovery(version: string, namespaces: () => readonly string[]): [string, string, Route][] {
  const fixed = (path: string, value: object): [string, string, Route] => [
    "GET",
    path,
    (_request, response) => answer(response, 200, value),
  ];
  const namespace = (name: string) => ({
    kind: "Namespace",
    apiVersion: "v1",
    metadata: { name },
    status: { phase: "Active" },
  });
  return [
    fixed("/version", {
      ...KUBERNETES,
      gitVersion: `v${KUBERNETES.major}.${KUBERNETES.minor}.0+minke-${version}`,
      minkeVersion: version,
      platform: `linux/${arch() === "x64" ? "amd64" : arch()}`,
    }),
    fixed("/api", { kind: "APIVersions", versions: ["v1"] }),
    fixed("/apis", { kind: "APIGroupList", apiVersion: "v1", groups: [] }),
    fixed("/api/v1", { kind: "APIResourceList", groupVersion: "v1", resources: RESOURCES }),
    [
      "GET",
      "/api/v1/namespaces",
      (_request, response) =>
        answer(response, 200, {
          kind: "NamespaceList",
          apiVersion: "v1",
          metadata: {},
          items: namespaces().map(namespace),
        }),
    ],
    [
      "GET",
      "/api/v1/namespaces/:ns",
      (request, response) => answer(response, 200, namespace(request.path.split("/").at(-1) ?? "")),
    ],
  ];
}
