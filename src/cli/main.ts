#!/usr/bin/env -S MALLOC_ARENA_MAX=1 node --single-threaded-gc --max-semi-space-size=2 --expose-gc
/**
 * The `minke` command: its words, options and help. What a command does is loaded when it is asked
 * for, so that `minke get pods` does not read what only `minke daemon` needs.
 */
import { Command, CommanderError } from "commander";
import { EXIT, onBrokenOutput, reportError } from "./context.js";
import { addImageCommands } from "./image-commands.js";

/** Runs a command with the global options merged in; reports what it throws. */
function action(run: (...args: never[]) => Promise<void>) {
  return async (...given: unknown[]) => {
    const command = given.at(-1) as Command;
    try {
      await Reflect.apply(run, undefined, [...given.slice(0, -2), command.optsWithGlobals()]);
    } catch (err) {
      reportError(err);
    }
  };
}

/** Lines that can be typed as they are, below a command's options. */
function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  ${line}`).join("\n")}`;
}

function buildProgram(): Command {
  const program = new Command("minke")
    .description("Runs whole Kubernetes Pods on this machine, with no cluster.")
    .option("--root <dir>", "data of the daemon (MINKE_ROOT, else /var/lib/minke)")
    .option("--run <dir>", "sockets of the daemon (MINKE_RUN, else /run/minke)")
    .option("--api <socket>", "API socket, where it is not <run>/api.sock")
    .option("-n, --namespace <name>", "namespace of the pods", "default")
    .showHelpAfterError("(minke --help lists the commands)")
    .addHelpText(
      "after",
      examples("minke run -f examples/web.yaml --wait", "minke get pods", "minke logs -f web", "minke delete pod web"),
    );
  addDaemon(program);
  addPodCommands(program);
  addStreamCommands(program);
  addImageCommands(program, action, examples);
  program
    .command("version")
    .description("print the versions of the command and, where one runs, of the daemon")
    .addHelpText("after", examples("minke version"))
    .action(action(async (options) => (await import("./images.js")).showVersion(options)));
  program
    .command("doctor")
    .description("say what this machine has of what minke needs, and what is missing costs")
    .option("-o, --output <format>", "json")
    .addHelpText("after", examples("minke doctor", "minke doctor -o json"))
    .action(action(async (options) => (await import("./daemon.js")).doctor(options)));
  program
    .command("completion <shell>")
    .description("print a script that completes commands, options and pods: bash, zsh or fish")
    .addHelpText(
      "after",
      examples("source <(minke completion bash)", "source <(minke completion zsh)", "minke completion fish | source"),
    )
    .action(
      action(async (shell: string) => {
        const { completionScript } = await import("./completion.js");
        process.stdout.write(completionScript(shell, program));
      }),
    );
  return program;
}

function addDaemon(program: Command): void {
  const daemon = program
    .command("daemon")
    .description("run the daemon in the foreground; other commands start one by themselves")
    .option("--cri <socket>", "CRI socket, where it is not <run>/cri.sock")
    .option("--config <file>", "settings (MINKE_CONFIG, else /etc/minke/config.toml, where it exists)")
    .addHelpText(
      "after",
      examples("minke daemon", "minke daemon --root /tmp/m/root --run /tmp/m/run --config /tmp/m/config.toml"),
    )
    .action(action(async (options) => (await import("./daemon.js")).runDaemonHere(options)));
  daemon
    .command("stop")
    .description("stop the daemon; pods go on running unless --pods is given")
    .option("--pods", "delete every pod first")
    .addHelpText("after", examples("minke daemon stop", "minke daemon stop --pods"))
    .action(action(async (options) => (await import("./daemon.js")).stopDaemon(options)));
}

function addPodCommands(program: Command): void {
  program
    .command("run")
    .description("create the pods of a manifest, and what they are configured by")
    .requiredOption("-f, --filename <file>", "YAML with Pods, ConfigMaps and Secrets; - is standard input")
    .option("--wait", "wait until they are ready or have completed; where one cannot start, remove it and fail")
    .option("--strict", "a field that has no effect here is an error")
    .option("--keep", "with --wait: leave a pod that cannot start")
    .option("--timeout <seconds>", "with --wait", "300")
    .addHelpText(
      "after",
      examples(
        "minke run -f web.yaml",
        "minke run -f web.yaml --wait --timeout 60",
        "cat web.yaml | minke run -f - --strict",
      ),
    )
    .action(action(async (options) => (await import("./run.js")).runPods(options)));
  const get = program.command("get").description("list objects");
  get
    .command("pods [name]")
    .aliases(["pod", "po"])
    .description("list pods")
    .option("-A, --all-namespaces", "of every namespace")
    .option("-o, --output <format>", "wide, json, yaml or name")
    .option("-w, --watch", "go on with every change")
    .addHelpText("after", examples("minke get pods", "minke get pods -o wide -w", "minke get pod web -o yaml"))
    .action(action(async (name: string | undefined, options) => (await import("./get.js")).getPods(name, options)));
  for (const [name, alias] of [
    ["configmaps", "cm"],
    ["secrets", "secret"],
  ] as const) {
    get
      .command(`${name} [name]`)
      .aliases(name === "configmaps" ? ["configmap", alias] : [alias])
      .description(`list ${name}; their values only with -o json or yaml`)
      .option("-A, --all-namespaces", "of every namespace")
      .option("-o, --output <format>", "json, yaml or name")
      .addHelpText("after", examples(`minke get ${name}`, `minke get ${name} web -o yaml`))
      .action(
        action(async (object: string | undefined, options) =>
          (await import("./config-objects.js")).getConfigs(name, object, options),
        ),
      );
  }
  get
    .command("events")
    .description("list what happened to pods")
    .addHelpText("after", examples("minke get events"))
    .action(action(async (options) => (await import("./get.js")).getEvents(options)));
  program
    .command("stats [pod]")
    .description("show what running pods and their containers use")
    .option("-A, --all-namespaces", "of every namespace")
    .option("-w, --watch", "go on, every 2 seconds")
    .option("-o, --output <format>", "json: figures since the start, without rates")
    .addHelpText("after", examples("minke stats", "minke stats web -w", "minke stats -A -o json"))
    .action(action(async (pod: string | undefined, options) => (await import("./stats.js")).showStats(pod, options)));
  program
    .command("describe <kind> [name]")
    .description("show a pod with its containers, conditions, events and the timeline of its start")
    .addHelpText("after", examples("minke describe pod web"))
    .action(
      action(async (kind: string, name: string | undefined, options) =>
        (await import("./describe.js")).describe(kind, name, options),
      ),
    );
  program
    .command("delete [kind] [names...]")
    .description("delete pods, configmaps and secrets, by name or by the manifest that made them")
    .option("-f, --filename <file>", "the objects of a manifest")
    .option("--grace-period <seconds>", "instead of the pod's own")
    .option("--now", "a grace period of one second")
    .option("--force", "kill at once")
    .option("--no-wait", "return before they are gone")
    .option("--ignore-not-found", "a pod that does not exist is fine")
    .option("--all", "every pod of the namespace")
    .addHelpText(
      "after",
      examples(
        "minke delete pod web",
        "minke delete pod web --grace-period 5",
        "minke delete -f web.yaml",
        "minke delete pod --all --now",
      ),
    )
    .action(
      action(async (kind: string | undefined, names: string[], options) =>
        (await import("./delete.js")).deletePods(kind, names, options),
      ),
    );
}

function addStreamCommands(program: Command): void {
  program
    .command("logs <pod> [container]")
    .description("print what a container wrote")
    .option("-c, --container <name>", "where the pod has several")
    .option("-f, --follow", "go on with what it writes")
    .option("-p, --previous", "of the container before the last restart")
    .option("--tail <lines>", "only the last lines")
    .option("--since <duration>", "only what is newer: 30s, 5m, 2h")
    .option("--timestamps", "with the time of each line")
    .addHelpText(
      "after",
      examples("minke logs web", "minke logs -f web -c server", "minke logs web --previous --tail 20"),
    )
    .action(
      action(async (pod: string, container: string | undefined, options) =>
        (await import("./logs.js")).printLogs(pod, container, options),
      ),
    );
  program
    .command("exec <pod> [command...]")
    .description("run a command in a container; write -- before the command")
    .option("-c, --container <name>", "where the pod has several")
    .option("-i, --stdin", "pass standard input on")
    .option("-t, --tty", "with a terminal")
    .addHelpText("after", examples("minke exec web -- ls -l /", "minke exec -it web -c server -- sh"))
    .action(
      action(async (pod: string, command: string[], options) =>
        (await import("./exec.js")).execInPod(pod, command, options),
      ),
    );
  program
    .command("attach <pod>")
    .description("connect to the first process of a container")
    .option("-c, --container <name>", "where the pod has several")
    .option("-i, --stdin", "pass standard input on")
    .option("-t, --tty", "with a terminal")
    .addHelpText("after", examples("minke attach web", "minke attach -it shell"))
    .action(action(async (pod: string, options) => (await import("./exec.js")).attachToPod(pod, options)));
  program
    .command("port-forward <pod> <ports...>")
    .description("let ports of this machine's localhost lead into a pod, until interrupted")
    .option("--address <ip>", "where to listen", "127.0.0.1")
    .addHelpText(
      "after",
      examples("minke port-forward web 8080:80", "minke port-forward web 80", "minke port-forward web :80"),
    )
    .action(
      action(async (pod: string, ports: string[], options) =>
        (await import("./port-forward.js")).forwardPorts(pod, ports, options),
      ),
    );
}

const program = buildProgram();
for (const command of [program, ...allCommands(program)]) command.exitOverride();

function allCommands(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...allCommands(child)]);
}

process.stdout.on("error", onBrokenOutput);

try {
  await program.parseAsync();
} catch (err) {
  if (err instanceof CommanderError) process.exitCode = err.exitCode === 0 ? EXIT.ok : EXIT.badInput;
  else reportError(err);
}
