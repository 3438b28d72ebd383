/**
 * The routes of ConfigMaps and Secrets: list, get, create, replace, delete.
 */
import type { ServerResponse } from "node:http";
import type { ConfigObjects } from "../pod/config-objects.js";
import type { ConfigObject } from "../pod/manifest/config-schema.js";
import { readManifest } from "../pod/manifest/read.js";
import { parseYamlDocuments } from "../pod/manifest/yaml.js";
import { type ApiRequest, answer, invalidRequest, readBody } from "./request.js";

type Route = (request: ApiRequest, response: ServerResponse, parts: readonly string[]) => Promise<void> | void;

/** @param plural `configmaps`, `secrets` */
export function configRoutes(
  plural: string,
  kind: ConfigObject["kind"],
  objects: ConfigObjects,
): [string, string, Route][] {
  const list = (namespace: string | undefined, response: ServerResponse) =>
    answer(response, 200, { kind: `${kind}List`, apiVersion: "v1", metadata: {}, items: objects.list(namespace) });
  const all = `/api/v1/namespaces/:ns/${plural}`;
  const one = `${all}/:name`;
  return [
    ["GET", `/api/v1/${plural}`, (_request, response) => list(undefined, response)],
    ["GET", all, (_request, response, [ns]) => list(ns, response)],
    ["GET", one, (_request, response, [ns = "", name = ""]) => answer(response, 200, objects.get(ns, name))],
    [
      "POST",
      all,
      async (request, response, [ns = ""]) =>
        answer(response, 201, await objects.create(await readObject(request, kind, ns))),
    ],
    [
      "PUT",
      one,
      async (request, response, [ns = "", name = ""]) => {
        const object = await readObject(request, kind, ns);
        if (object.metadata.name !== name)
          throw invalidRequest(`the object's name "${object.metadata.name}" is not the request's "${name}"`);
        answer(response, 200, await objects.replace(object));
      },
    ],
    [
      "DELETE",
      one,
      async (_request, response, [ns = "", name = ""]) => answer(response, 200, await objects.remove(ns, name)),
    ],
  ];
}

async function readObject(request: ApiRequest, kind: string, namespace: string): Promise<ConfigObject> {
  const documents = parseYamlDocuments((await readBody(request.message)).toString("utf8"), "request");
  const strict = request.query.get("fieldValidation") === "Strict";
  const { configs } = readManifest(documents, { source: "request", namespace, strict });
  const [object] = configs;
  if (!object || documents.length !== 1 || object.kind !== kind) throw invalidRequest(`request body: not one ${kind}`);
  if (object.metadata.namespace !== namespace)
    throw invalidRequest(`the object's namespace "${object.metadata.namespace}" is not the request's "${namespace}"`);
  return object;
}
