/**
 * A token server for docker-registry: knows one user and one refresh token, and signs tokens
 * that the registry checks (distribution, docs/spec/auth/jwt.md). Makes certificates too.
 */
import { execFileSync } from "node:child_process";
import { createHash, createSign, randomUUID, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

export interface Certificate {
  readonly certificate: string;
  readonly key: string;
}

/** A self-signed certificate of 127.0.0.1, as PEM files in `dir`. */
export function makeCertificate(dir: string, name: string): Certificate {
  const certificate = join(dir, `${name}.pem`);
  const key = join(dir, `${name}.key`);
  const subject = ["-subj", `/CN=${name}`, "-addext", "subjectAltName=IP:127.0.0.1"];
  const files = ["-keyout", key, "-out", certificate];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", ...subject, ...files], {
    stdio: "ignore",
  });
  return { certificate, key };
}

export interface TokenServer {
  readonly realm: string;
  /** What docker-registry's configuration says of it. */
  readonly auth: string;
  /** Requests, as `METHOD user`. */
  readonly log: string[];
  close(): Promise<void>;
}

const SERVICE = "minke-test-registry";

export async function startTokenServer(
  signer: Certificate,
  known: { readonly username: string; readonly password: string; readonly refreshToken: string },
): Promise<TokenServer> {
  const log: string[] = [];
  const basic = `Basic ${Buffer.from(`${known.username}:${known.password}`).toString("base64")}`;
  const server = createServer((request, response) => {
    let form = "";
    request.on("data", (piece: Buffer) => (form += piece.toString()));
    request.on("end", () => {
      const parameters =
        request.method === "POST" ? new URLSearchParams(form) : new URL(request.url ?? "", "http://x").searchParams;
      const isKnown =
        request.method === "POST"
          ? parameters.get("refresh_token") === known.refreshToken ||
            (parameters.get("username") === known.username && parameters.get("password") === known.password)
          : request.headers.authorization === basic;
      log.push(`${request.method} ${isKnown ? "known" : "unknown"}`);
      if (!isKnown) return response.writeHead(401).end();
      const token = sign(signer, parameters.getAll("scope"));
      response.writeHead(200, { "content-type": "application/json" });
      return response.end(JSON.stringify({ token, access_token: token, expires_in: 300 }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const realm = `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`;
  const token = { realm, service: SERVICE, issuer: "minke-test", rootcertbundle: signer.certificate };
  return {
    realm,
    auth: JSON.stringify({ token }),
    log,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function sign({ certificate, key }: Certificate, scopes: readonly string[]): string {
  const der = new X509Certificate(readFileSync(certificate)).raw;
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const nowS = Math.floor(Date.now() / 1000);
  const access = scopes
    .flatMap((scope) => scope.split(" "))
    .filter(Boolean)
    .map((scope) => {
      const [type = "", ...rest] = scope.split(":");
      return { type, name: rest.slice(0, -1).join(":"), actions: (rest.at(-1) ?? "").split(",") };
    });
  const claims = {
    iss: "minke-test",
    sub: "u",
    aud: SERVICE,
    exp: nowS + 300,
    nbf: nowS - 10,
    iat: nowS,
    jti: randomUUID(),
    access,
  };
  const kid = createHash("sha256").update(der).digest("hex").slice(0, 16);
  const head = part({ typ: "JWT", alg: "RS256", x5c: [der.toString("base64")], kid });
  const text = `${head}.${part(claims)}`;
  return `${text}.${createSign("RSA-SHA256").update(text).sign(readFileSync(key)).toString("base64url")}`;
}
