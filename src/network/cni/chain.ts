/**
 * The operations of CNI on a whole chain of plugins: CNI spec, section 3, "Execution of Network
 * Configurations". Each plugin gets its own object with the chain's name and version, the
 * capability arguments that it declares, and the result so far.
 */
import { RuntimeError } from "../../base/errors.js";
import { failpoint } from "../../base/failpoints.js";
import { type CapabilityArguments, pluginArguments } from "./arguments.js";
import { isAtLeast, type NetworkConfig, type PluginConfig } from "./config.js";
import { type CniCommand, type PluginSettings, runPlugin } from "./plugin.js";
import { type CniResult, resultProblem } from "./result.js";

/** One sandbox on one network: what ADD was told, and DEL must be told again. */
export interface Attachment {
  readonly containerId: string;
  readonly interfaceName: string;
  readonly args: string;
  readonly capabilities: CapabilityArguments;
  readonly config: NetworkConfig;
  /** Of ADD, once it has succeeded. */
  readonly result?: CniResult | undefined;
}

/** @param netnsPath empty where the namespace is gone, which DEL must bear (section 2, "DEL") */
function pluginRun(
  command: CniCommand,
  attachment: Attachment,
  plugin: PluginConfig,
  netnsPath: string,
  prevResult: CniResult | undefined,
) {
  const { config, capabilities } = attachment;
  const runtimeConfig = pluginArguments(plugin, capabilities);
  return {
    command,
    type: plugin.type,
    network: config.name,
    env: {
      CNI_CONTAINERID: attachment.containerId,
      CNI_NETNS: netnsPath,
      CNI_IFNAME: attachment.interfaceName,
      CNI_ARGS: attachment.args,
    },
    config: {
      ...plugin,
      name: config.name,
      cniVersion: config.version,
      ...(runtimeConfig && { runtimeConfig }),
      ...(prevResult && { prevResult }),
    },
  };
}

/** @returns the last plugin's result, in the chain's version */
export async function addToNetwork(
  attachment: Attachment,
  netnsPath: string,
  settings: PluginSettings,
): Promise<CniResult> {
  const { name, version, plugins } = attachment.config;
  let result: CniResult | undefined;
  for (const plugin of plugins) {
    const answer = await runPlugin(pluginRun("ADD", attachment, plugin, netnsPath, result), settings);
    const problem = answer === undefined ? "it printed no result" : resultProblem(answer);
    if (answer === undefined || problem !== undefined) {
      throw new RuntimeError(`CNI plugin "${plugin.type}" of network "${name}": ADD: ${problem}`, {
        kind: "internal",
        code: "CNI_BAD_OUTPUT",
      });
    }
    result = { ...answer, cniVersion: version };
    failpoint("after cni plugin add");
  }
  return result ?? {};
}

/**
 * In reverse; ends at the first plugin that fails, so that no address is given to another pod
 * while a later plugin's rules still lead to it. To be repeated until it succeeds.
 */
export async function deleteFromNetwork(
  attachment: Attachment,
  netnsPath: string,
  settings: PluginSettings,
): Promise<void> {
  const { version, plugins } = attachment.config;
  const prevResult = isAtLeast(version, "0.4.0") ? attachment.result : undefined;
  for (const plugin of plugins.toReversed()) {
    await runPlugin(pluginRun("DEL", attachment, plugin, netnsPath, prevResult), settings);
    failpoint("after cni plugin del");
  }
}

/** Nothing where the version has no CHECK, or the configuration asks not to. */
export async function checkNetwork(attachment: Attachment, netnsPath: string, settings: PluginSettings): Promise<void> {
  const { version, disableCheck, plugins } = attachment.config;
  if (disableCheck || !isAtLeast(version, "0.4.0")) return;
  for (const plugin of plugins) {
    await runPlugin(pluginRun("CHECK", attachment, plugin, netnsPath, attachment.result), settings);
  }
}

/** Whether the network takes new pods; nothing where the version has no STATUS. */
export async function askStatus(config: NetworkConfig, settings: PluginSettings): Promise<void> {
  if (!isAtLeast(config.version, "1.1.0")) return;
  for (const plugin of config.plugins) {
    await runPlugin(
      {
        command: "STATUS",
        type: plugin.type,
        network: config.name,
        env: {},
        config: { ...plugin, name: config.name, cniVersion: config.version },
      },
      settings,
    );
  }
}

/** Tells every plugin which attachments are valid; all are asked, also where one fails. */
export async function collectGarbage(
  config: NetworkConfig,
  valid: readonly Pick<Attachment, "containerId" | "interfaceName">[],
  settings: PluginSettings,
): Promise<unknown[]> {
  if (config.disableGc || !isAtLeast(config.version, "1.1.0")) return [];
  const attachments = valid.map(({ containerId, interfaceName }) => ({
    containerID: containerId,
    ifname: interfaceName,
  }));
  const failures: unknown[] = [];
  for (const plugin of config.plugins) {
    const given = {
      ...plugin,
      name: config.name,
      cniVersion: config.version,
      "cni.dev/valid-attachments": attachments,
      // The name that libcni before 1.2.3 gave it, and plugins built with that still read.
      "cni.dev/attachments": attachments,
    };
    try {
      await runPlugin({ command: "GC", type: plugin.type, network: config.name, env: {}, config: given }, settings);
    } catch (err) {
      failures.push(err);
    }
  }
  return failures;
}
