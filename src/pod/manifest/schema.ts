/**
 * The Pod fields that minke acts on, as strict zod schemas; the types of a Pod are inferred here.
 *
 * A field that is not listed is never dropped in silence: the schemas are strict, and read.ts
 * turns what they refuse into warnings by path. Rules that look at more than one field are in
 * validate.ts, defaults in defaults.ts. Field names and meaning: Kubernetes API reference, Pod v1.
 */
import { z } from "zod";

const text = z.string();
const int32 = z.int32();
const int64 = z.int();
const stringMap = z.record(z.string(), z.string());
/** A Kubernetes Quantity: `"100m"`, `"64Mi"`, `1`, `0.5`. */
const quantity = z.union([z.string(), z.number()]);

export const metadataSchema = z.strictObject({
  name: text.optional(),
  generateName: text.optional(),
  namespace: text.optional(),
  uid: text.optional(),
  labels: stringMap.optional(),
  annotations: stringMap.optional(),
  creationTimestamp: text.nullish(),
  deletionTimestamp: text.nullish(),
  deletionGracePeriodSeconds: int64.nullish(),
  resourceVersion: text.optional(),
  generation: int64.optional(),
});

const fieldRef = z.strictObject({ apiVersion: text.optional(), fieldPath: text });

const resourceFieldRef = z.strictObject({
  containerName: text.optional(),
  resource: text,
  divisor: quantity.optional(),
});
const keyRef = z.strictObject({ name: text, key: text, optional: z.boolean().optional() });

const envVar = z.strictObject({
  name: text,
  value: text.nullish(),
  valueFrom: z
    .strictObject({
      fieldRef: fieldRef.optional(),
      resourceFieldRef: resourceFieldRef.optional(),
      configMapKeyRef: keyRef.optional(),
      secretKeyRef: keyRef.optional(),
    })
    .optional(),
});

const objectRef = z.strictObject({ name: text, optional: z.boolean().optional() });
const envFrom = z.strictObject({
  prefix: text.optional(),
  configMapRef: objectRef.optional(),
  secretRef: objectRef.optional(),
});

const containerPort = z.strictObject({
  name: text.optional(),
  containerPort: int32,
  hostPort: int32.optional(),
  hostIP: text.optional(),
  protocol: z.enum(["TCP", "UDP", "SCTP"]).optional(),
});

const volumeMount = z.strictObject({
  name: text,
  mountPath: text,
  subPath: text.optional(),
  readOnly: z.boolean().optional(),
  recursiveReadOnly: z.enum(["Disabled", "IfPossible", "Enabled"]).optional(),
  mountPropagation: z.enum(["None", "HostToContainer", "Bidirectional"]).optional(),
});

const securityProfile = z.strictObject({
  type: z.enum(["RuntimeDefault", "Unconfined", "Localhost"]),
  localhostProfile: text.optional(),
});
const containerSecurityContext = z.strictObject({
  runAsUser: int64.optional(),
  runAsGroup: int64.optional(),
  runAsNonRoot: z.boolean().optional(),
  privileged: z.boolean().optional(),
  readOnlyRootFilesystem: z.boolean().optional(),
  allowPrivilegeEscalation: z.boolean().optional(),
  capabilities: z.strictObject({ add: z.array(text).optional(), drop: z.array(text).optional() }).optional(),
  procMount: z.enum(["Default", "Unmasked"]).optional(),
  seccompProfile: securityProfile.optional(),
  appArmorProfile: securityProfile.optional(),
});

const portRef = z.union([int32, text]);
const action = {
  exec: z.strictObject({ command: z.array(text) }).optional(),
  httpGet: z
    .strictObject({
      path: text.optional(),
      port: portRef,
      host: text.optional(),
      scheme: z.enum(["HTTP", "HTTPS"]).optional(),
      httpHeaders: z.array(z.strictObject({ name: text, value: text })).optional(),
    })
    .optional(),
  tcpSocket: z.strictObject({ port: portRef, host: text.optional() }).optional(),
};
const probe = z.strictObject({
  ...action,
  grpc: z.strictObject({ port: int32, service: text.nullish() }).optional(),
  initialDelaySeconds: int32.optional(),
  timeoutSeconds: int32.optional(),
  periodSeconds: int32.optional(),
  successThreshold: int32.optional(),
  failureThreshold: int32.optional(),
  terminationGracePeriodSeconds: int64.nullish(),
});
const hook = z.strictObject({ ...action, sleep: z.strictObject({ seconds: int64 }).optional() });

const resources = z.strictObject({
  limits: z.record(z.string(), quantity).optional(),
  requests: z.record(z.string(), quantity).optional(),
});

const container = z.strictObject({
  name: text,
  image: text.optional(),
  imagePullPolicy: z.enum(["Always", "IfNotPresent", "Never"]).optional(),
  command: z.array(text).optional(),
  args: z.array(text).optional(),
  workingDir: text.optional(),
  env: z.array(envVar).optional(),
  envFrom: z.array(envFrom).optional(),
  ports: z.array(containerPort).optional(),
  volumeMounts: z.array(volumeMount).optional(),
  resources: resources.optional(),
  securityContext: containerSecurityContext.optional(),
  lifecycle: z
    .strictObject({ stopSignal: text.optional(), postStart: hook.optional(), preStop: hook.optional() })
    .optional(),
  livenessProbe: probe.optional(),
  readinessProbe: probe.optional(),
  startupProbe: probe.optional(),
  terminationMessagePath: text.optional(),
  terminationMessagePolicy: z.enum(["File", "FallbackToLogsOnError"]).optional(),
  restartPolicy: z.enum(["Always", "OnFailure", "Never"]).optional(),
  stdin: z.boolean().optional(),
  stdinOnce: z.boolean().optional(),
  tty: z.boolean().optional(),
});

const items = z.array(z.strictObject({ key: text, path: text, mode: int32.nullish() }));
const downwardItems = z.array(
  z.strictObject({
    path: text,
    fieldRef: fieldRef.optional(),
    resourceFieldRef: resourceFieldRef.optional(),
    mode: int32.nullish(),
  }),
);
/** Where a volume's files come from; a projected volume has several. */
const fileSource = z.strictObject({
  configMap: z.strictObject({ name: text, items: items.optional(), optional: z.boolean().optional() }).optional(),
  secret: z.strictObject({ name: text, items: items.optional(), optional: z.boolean().optional() }).optional(),
  downwardAPI: z.strictObject({ items: downwardItems.optional() }).optional(),
});

const volume = z.strictObject({
  name: text,
  emptyDir: z.strictObject({ medium: text.optional(), sizeLimit: quantity.optional() }).nullish(),
  configMap: z
    .strictObject({
      name: text,
      items: items.optional(),
      optional: z.boolean().optional(),
      defaultMode: int32.nullish(),
    })
    .optional(),
  secret: z
    .strictObject({
      secretName: text,
      items: items.optional(),
      optional: z.boolean().optional(),
      defaultMode: int32.nullish(),
    })
    .optional(),
  downwardAPI: z.strictObject({ items: downwardItems.optional(), defaultMode: int32.nullish() }).optional(),
  projected: z.strictObject({ sources: z.array(fileSource), defaultMode: int32.nullish() }).optional(),
  image: z
    .strictObject({
      reference: text.optional(),
      pullPolicy: z.enum(["Always", "IfNotPresent", "Never"]).optional(),
    })
    .optional(),
  hostPath: z
    .strictObject({
      path: text,
      type: z
        .enum(["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"])
        .nullish(),
    })
    .optional(),
});

const podSecurityContext = z.strictObject({
  runAsUser: int64.optional(),
  runAsGroup: int64.optional(),
  runAsNonRoot: z.boolean().optional(),
  supplementalGroups: z.array(int64).optional(),
  supplementalGroupsPolicy: z.enum(["Merge", "Strict"]).optional(),
  seccompProfile: securityProfile.optional(),
  appArmorProfile: securityProfile.optional(),
  fsGroup: int64.optional(),
  sysctls: z.array(z.strictObject({ name: text, value: text })).optional(),
});

const podSpec = z.strictObject({
  initContainers: z.array(container).optional(),
  containers: z.array(container),
  restartPolicy: z.enum(["Always", "OnFailure", "Never"]).optional(),
  volumes: z.array(volume).optional(),
  hostname: text.optional(),
  subdomain: text.optional(),
  hostAliases: z.array(z.strictObject({ ip: text, hostnames: z.array(text).optional() })).optional(),
  dnsPolicy: z.enum(["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]).optional(),
  dnsConfig: z
    .strictObject({
      nameservers: z.array(text).optional(),
      searches: z.array(text).optional(),
      options: z.array(z.strictObject({ name: text, value: text.optional() })).optional(),
    })
    .optional(),
  runtimeClassName: text.optional(),
  hostNetwork: z.boolean().optional(),
  hostPID: z.boolean().optional(),
  hostIPC: z.boolean().optional(),
  hostUsers: z.boolean().optional(),
  shareProcessNamespace: z.boolean().optional(),
  terminationGracePeriodSeconds: int64.optional(),
  activeDeadlineSeconds: int64.optional(),
  securityContext: podSecurityContext.optional(),
});

/** `status` is accepted, and not read, so that what `get -o yaml` printed can be run again. */
export const podSchema = z.strictObject({
  apiVersion: z.literal("v1"),
  kind: z.literal("Pod"),
  metadata: metadataSchema,
  spec: podSpec,
  status: z.unknown().optional(),
});

export type PodManifest = z.infer<typeof podSchema>;
export type PodSpec = z.infer<typeof podSpec>;
export type SecurityProfileSource = z.infer<typeof securityProfile>;
export type PodContainer = z.infer<typeof container>;
export type PodVolume = z.infer<typeof volume>;
export type PodVolumeMount = z.infer<typeof volumeMount>;
export type Probe = z.infer<typeof probe>;
export type Hook = z.infer<typeof hook>;
export type FileSource = z.infer<typeof fileSource>;
export type ResourceFieldRef = z.infer<typeof resourceFieldRef>;
export type EnvVar = z.infer<typeof envVar>;
export type Quantity = z.infer<typeof quantity>;
