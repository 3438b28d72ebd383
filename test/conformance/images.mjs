// @ts-check
/**
 * The images that critest asks for, made from Debian packages: same names, same promises (users, set-uid
 * programs, ports, distinct ids), other contents than the originals.
 *
 * critest pulls them from registry.k8s.io, k8s.gcr.io and gcr.io; a daemon under test maps these hosts onto
 * one registry on loopback, so a reference here is `repository:tag` without a host.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../../rootfs-fixtures/debian.mjs";
import { baseEntries, file, fixtureImages, layer } from "../../rootfs-fixtures/images.mjs";
import { builtBusybox } from "./busybox.mjs";

/** @typedef {import("../../rootfs-fixtures/oci-layout.mjs").Image} Image */

const PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const E2E = "e2e-test-images";
const TOOLS = "k8s-staging-cri-tools";
/** The one image that critest names by a digest, which no other content can have. */
export const DIGEST_IMAGE = `${TOOLS}/test-image-digest:latest`;
export const DIGEST_IN_CRITEST = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";
const HOST_NETWORK_PORT = 12003;

const NONEWPRIVS = `#include <stdio.h>
#include <unistd.h>
int main(void) {
  printf("Effective uid: %d\\n", (int)geteuid());
  return 0;
}
`;

/**
 * @param {{ fixtures: string, conformance: string }} caches absolute: packages of the fixtures; busybox
 * @returns {Image[]}
 */
export function conformanceImages(caches) {
  const [, nginxFixture] = fixtureImages(caches.fixtures);
  const nginx = nginxFixture?.layers[1];
  if (!nginxFixture || !nginx) throw new Error("the fixtures have no nginx image");
  const { architecture } = nginxFixture;
  const base = layer(baseEntries(builtBusybox(caches.conformance)), "busybox as /bin, users, /tmp");
  const marked = (/** @type {string} */ text) => layer([file("etc/marker", `${text}\n`)], `marker ${text}`);
  const shell = { Env: [PATH], Cmd: ["sh"] };
  /** @type {(ref: string, config?: Image["config"], more?: readonly import("../../rootfs-fixtures/oci-layout.mjs").Layer[]) => Image} */
  const image = (ref, config = shell, more = []) => ({ ref, architecture, config, layers: [base, ...more] });
  /** @type {(name: string, tag?: string) => Image} */
  const plain = (name, tag = "latest") => image(`${TOOLS}/${name}:${tag}`, shell, [marked(`${name}:${tag}`)]);
  /** @type {(name: string, user: string, more?: readonly import("../../rootfs-fixtures/oci-layout.mjs").Layer[]) => Image} */
  const ofUser = (name, user, more = []) =>
    image(`${TOOLS}/${name}:latest`, { ...shell, User: user }, [marked(name), ...more]);
  const tags = image("", shell, [marked("test-image-tags")]);
  return [
    image(`${E2E}/busybox:1.29-2`),
    image(`${E2E}/nginx:1.14-2`, nginxFixture.config, [nginx]),
    image(
      `${E2E}/httpd:2.4.39-4`,
      {
        Env: [PATH],
        Cmd: ["sh", "-c", "echo httpd listens on port 80; exec httpd -f -v -p 80 -h /srv"],
        ExposedPorts: { "80/tcp": {} },
      },
      [layer([file("srv/index.html", "httpd\n")], "a page")],
    ),
    image(`${E2E}/nonewprivs:1.3`, { Env: [PATH], Entrypoint: ["/nnp"] }, [
      layer([file("nnp", setUidProgram(), 0o4755)], "a set-uid program"),
    ]),
    image(`${TOOLS}/hostnet-nginx-${architecture}:latest`, nginxFixture.config, [
      nginx,
      layer([file("etc/nginx/nginx.conf", hostNetworkConf())], "another port"),
    ]),
    ofUser("test-image-user-uid", "1002"),
    ofUser("test-image-user-username", "www-data"),
    ofUser("test-image-user-uid-group", "1003:users"),
    ofUser("test-image-user-username-group", "www-data:100"),
    ofUser("test-image-predefined-group", "1000", [predefinedGroup()]),
    plain("test-image-latest"),
    plain("test-image-tag", "test"),
    plain("test-image-tag", "all"),
    plain("test-image-digest"),
    ...["1", "2", "3"].map((number) => plain(`test-image-${number}`)),
    ...["1", "2", "3"].map((tag) => ({ ...tags, ref: `${TOOLS}/test-image-tags:${tag}` })),
    image("pause:3.9", shell, [marked("pause:3.9")]),
    image("pause:3.10", shell, [marked("pause:3.10")]),
  ];
}

function predefinedGroup() {
  return layer(
    [
      file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/default-user:/bin/sh\n"),
      file("etc/group", "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
    ],
    "a user in a group",
  );
}

/** Needs no /etc/nginx/mime.types and no second port: it shares the host's network. */
function hostNetworkConf() {
  return `user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;
events { worker_connections 256; }
http {
  access_log /dev/stdout;
  server {
    listen ${HOST_NETWORK_PORT} default_server;
    root /usr/share/nginx/html;
    index index.html;
  }
}
`;
}

function setUidProgram() {
  const dir = mkdtempSync(join(tmpdir(), "minke-nnp-"));
  try {
    const source = join(dir, "nnp.c");
    writeFileSync(source, NONEWPRIVS);
    run("gcc", ["-static", "-Os", "-s", "-Wl,--build-id=none", "-no-pie", "-o", join(dir, "nnp"), source]);
    return readFileSync(join(dir, "nnp"));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
