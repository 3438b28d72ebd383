/**
 * `minke completion bash|zsh|fish`: a script that completes commands and options by what the
 * program itself declares, and pods by asking the daemon that runs, if one does.
 */
import type { Command } from "commander";
import { RuntimeError } from "../base/errors.js";

/** Commands whose first word is a pod. */
const TAKES_POD = ["logs", "exec", "attach", "port-forward"];
/** Commands that take `pod NAME`. */
const TAKES_KIND = ["describe", "delete"];
/** Commands whose words are images; `image` after its own subcommand. */
const TAKES_IMAGE = ["save"];
/** Asks without starting a daemon: pressing a key must not. */
const LIST_PODS = `minke version >/dev/null 2>&1 && minke get pods -o name 2>/dev/null | sed 's,^pod/,,'`;

const LIST_IMAGES = `minke version >/dev/null 2>&1 && minke image ls -o name 2>/dev/null`;

interface Words {
  /** `""` for the program, else the command's name. */
  readonly command: string;
  readonly words: readonly string[];
}

export function completionScript(shell: string, program: Command): string {
  const table = wordsOf(program);
  switch (shell) {
    case "bash":
      return bash(table);
    case "zsh":
      return `#compdef minke\nautoload -U +X bashcompinit && bashcompinit\n${bash(table)}`;
    case "fish":
      return fish(program);
    default:
      throw new RuntimeError(`"${shell}" is not a shell that is known here; use bash, zsh or fish`, {
        kind: "invalid-argument",
        code: "INVALID_REQUEST",
      });
  }
}

function wordsOf(program: Command): Words[] {
  const options = (command: Command) => command.options.flatMap(({ long }) => (long ? [long] : []));
  const global = options(program);
  return [
    { command: "", words: [...program.commands.map((command) => command.name()), ...global, "--help"] },
    ...program.commands.map((command) => ({
      command: command.name(),
      words: [
        ...command.commands.map((child) => child.name()),
        ...options(command),
        ...command.commands.flatMap(options),
        "--help",
      ],
    })),
  ];
}

function bash(table: readonly Words[]): string {
  const cases = table
    .filter(({ command }) => command !== "")
    .map(({ command, words }) => `    ${command}) words="${[...new Set(words)].join(" ")}" ;;`);
  return `# Completion of minke. Load it with: source <(minke completion bash)
_minke() {
  local word=\${COMP_WORDS[COMP_CWORD]} command="" words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      -n | --namespace | --root | --run | --api) ((i++)) ;;
      -*) ;;
      *) command=\${COMP_WORDS[i]}; break ;;
    esac
  done
  case $command in
    "") words="${table[0]?.words.join(" ") ?? ""}" ;;
${cases.join("\n")}
  esac
  case $word in
    -*) ;;
    *)
      case $command in
        ${TAKES_POD.join(" | ")}) words="$words $(${LIST_PODS})" ;;
        ${TAKES_KIND.join(" | ")}) if [[ \${COMP_WORDS[COMP_CWORD-1]} == "$command" ]]; then words="pod"; else words="$words $(${LIST_PODS})"; fi ;;
        ${TAKES_IMAGE.join(" | ")}) words="$words $(${LIST_IMAGES})" ;;
        image)
          case \${COMP_WORDS[COMP_CWORD-1]} in
            image) ;;
            load) COMPREPLY=($(compgen -f -- "$word")); return ;;
            *) words="$(${LIST_IMAGES})" ;;
          esac ;;
        run | load) COMPREPLY=($(compgen -f -- "$word")); return ;;
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _minke minke
`;
}

function fish(program: Command): string {
  const quote = (text: string) => `'${text.replaceAll("'", String.raw`\'`)}'`;
  const option = (condition: string, command: Command) =>
    command.options.map(
      ({ short, long, description }) =>
        `complete -c minke${condition}${short ? ` -s ${short.slice(1)}` : ""}${long ? ` -l ${long.slice(2)}` : ""} -d ${quote(description)}`,
    );
  const lines = program.commands.flatMap((command) => {
    const inside = ` -n '__fish_seen_subcommand_from ${command.name()}'`;
    return [
      `complete -c minke -f -n __fish_use_subcommand -a ${command.name()} -d ${quote(command.description())}`,
      ...command.commands.map(
        (child) => `complete -c minke -f${inside} -a ${child.name()} -d ${quote(child.description())}`,
      ),
      ...[command, ...command.commands].flatMap((one) => option(inside, one)),
    ];
  });
  const pods = [...TAKES_POD, ...TAKES_KIND].join(" ");
  return [
    "# Completion of minke. Load it with: minke completion fish | source",
    ...option("", program),
    ...lines,
    `complete -c minke -f -n '__fish_seen_subcommand_from ${TAKES_KIND.join(" ")}' -a pod`,
    `complete -c minke -f -n '__fish_seen_subcommand_from ${pods}' -a ${quote(`(${LIST_PODS})`)}`,
    `complete -c minke -f -n '__fish_seen_subcommand_from ${[...TAKES_IMAGE, "inspect history rm tag verify"].join(" ")}' -a ${quote(`(${LIST_IMAGES})`)}`,
    "",
  ].join("\n");
}
