/**
 * The words, options and help of every image command. What one does is loaded when it is asked for.
 */
import type { Command } from "commander";

type Action = (run: (...args: never[]) => Promise<void>) => (...given: unknown[]) => Promise<void>;
type Examples = (...lines: readonly string[]) => string;

const FORMATS = "docker-archive, oci-archive, docker-dir or oci-dir";

/** Any other format is refused, not ignored. */
const output = (command: Command, ...formats: string[]) =>
  command.createOption("-o, --output <format>", "instead of text for people").choices(formats);

export function addImageCommands(program: Command, action: Action, examples: Examples): void {
  program
    .command("pull <reference>")
    .description("pull an image")
    .option("--explain", "pull nothing: say which registry would be asked, with which credential, and why")
    .addOption(output(program, "json"))
    .addHelpText("after", examples("minke pull docker.io/library/busybox:1.36"))
    .action(action(async (reference: string, options) => (await import("./images.js")).pull(reference, options)));
  const image = program.command("image").description("list, look at, name, move, check and remove images");
  for (const [parent, name] of [
    [program, "images"],
    [image, "ls"],
  ] as const) {
    parent
      .command(name)
      .description("list images")
      .option("-q, --quiet", "ids alone")
      .addOption(output(parent, "json", "name"))
      .addHelpText("after", examples(`minke ${name === "ls" ? "image ls" : name}`, "minke image ls -o json"))
      .action(action(async (options) => (await import("./image-list.js")).listImages(options)));
  }
  for (const parent of [program, image]) addLoad(parent, action, examples);
  for (const parent of [program, image]) addSave(parent, action, examples);
  addNames(image, action, examples);
  addDetails(image, action, examples);
  addCare(image, action, examples);
  program
    .command("df")
    .description("say what every byte below the daemon's root is for; the sum is what du says")
    .option("-v, --verbose", "with each layer, container, volume and log")
    .addOption(output(program, "json"))
    .addHelpText("after", examples("minke df", "minke df -v"))
    .action(action(async (options) => (await import("./image-care.js")).showUsage(options)));
}

function addLoad(parent: Command, action: Action, examples: Examples): void {
  parent
    .command("load [path]")
    .description("load the images of an OCI layout or of docker save: a directory, an archive, or standard input")
    .option("-i, --input <path>", "instead of the argument; - is standard input")
    .addOption(output(parent, "json"))
    .addHelpText("after", examples("minke load ./layout", "minke load -i image.tar", "minke load < image.tar.zst"))
    .action(
      action(async (path: string | undefined, options) => (await import("./image-archives.js")).load(path, options)),
    );
}

function addSave(parent: Command, action: Action, examples: Examples): void {
  parent
    .command("save <images...>")
    .description("write images as one archive to standard output, a file or a directory")
    .option("-o, --output <path>", "instead of standard output; a directory for the formats that are one")
    .option("--format <format>", FORMATS, "docker-archive")
    .option("--compress <kind>", "gzip or zstd")
    .addHelpText(
      "after",
      examples(
        "minke save web:1 db:2 -o both.tar",
        "minke save --format oci-archive --compress zstd web:1 > web.tar.zst",
      ),
    )
    .action(action(async (names: string[], options) => (await import("./image-archives.js")).save(names, options)));
}

function addNames(image: Command, action: Action, examples: Examples): void {
  image
    .command("rm <images...>")
    .alias("remove")
    .description("remove a tag, and the image with its last one; by id the image")
    .option("-f, --force", "by id: with all of its tags")
    .addOption(output(image, "json"))
    .addHelpText("after", examples("minke image rm registry.example/web:1", "minke image rm --force 3f9c2a7d10be"))
    .action(action(async (names: string[], options) => (await import("./image-list.js")).removeImages(names, options)));
  image
    .command("tag <image> <name>")
    .description("give an image one more name")
    .addOption(output(image, "json"))
    .addHelpText("after", examples("minke image tag 3f9c2a7d10be registry.example/web:2"))
    .action(
      action(async (name: string, target: string, options) =>
        (await import("./image-list.js")).tagImage(name, target, options),
      ),
    );
}

function addDetails(image: Command, action: Action, examples: Examples): void {
  image
    .command("inspect <images...>")
    .description("print all there is to know of images, as JSON in the words of docker image inspect")
    .addOption(output(image, "json"))
    .addHelpText("after", examples("minke image inspect registry.example/web:1"))
    .action(
      action(async (names: string[], options) => (await import("./image-list.js")).inspectImages(names, options)),
    );
  image
    .command("history <image>")
    .description("show the steps by which an image was made, the newest first")
    .option("--no-trunc", "whole commands")
    .addOption(output(image, "json"))
    .addHelpText("after", examples("minke image history registry.example/web:1"))
    .action(action(async (name: string, options) => (await import("./image-list.js")).showHistory(name, options)));
}

function addCare(image: Command, action: Action, examples: Examples): void {
  image
    .command("verify [images...]")
    .description("compare what is stored with what was unpacked; without a name all images")
    .option("--repair", "fetch what is damaged again, from where it was pulled")
    .addOption(output(image, "json"))
    .addHelpText("after", examples("minke image verify", "minke image verify --repair registry.example/web:1"))
    .action(action(async (names: string[], options) => (await import("./image-care.js")).verifyImages(names, options)));
  image
    .command("prune")
    .description("remove images that nothing needs: those without a tag, or all")
    .option("-a, --all", "also those with a tag")
    .option("--filter <condition>", "until=24h or until=2026-01-31T00:00:00Z: only what came here before")
    .option("--dry-run", "only say what would go, and what that frees")
    .addOption(output(image, "json"))
    .addHelpText("after", examples("minke image prune", "minke image prune --all --filter until=720h --dry-run"))
    .action(action(async (options) => (await import("./image-care.js")).pruneImages(options)));
}
