/**
 * undici's agents without what its entry loads beside them: fetch, caches, mocks and WebSockets are 80 of its
 * 110 modules, megabytes that a daemon would hold for nothing.
 *
 * Not imported at the first pull instead: an upgrade may have replaced the files under a daemon that runs.
 */
import { createRequire } from "node:module";
import type * as undici from "undici";

const load = createRequire(import.meta.url);

export const Agent = load("undici/lib/dispatcher/agent.js") as typeof undici.Agent;
export const ProxyAgent = load("undici/lib/dispatcher/proxy-agent.js") as typeof undici.ProxyAgent;

// As undici's entry does: `request` for us, `connect` for its ProxyAgent.
const Dispatcher = load("undici/lib/dispatcher/dispatcher.js") as typeof undici.Dispatcher;
Object.assign(Dispatcher.prototype, load("undici/lib/api/index.js"));
