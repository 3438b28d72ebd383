/**
 * Fields that Kubernetes knows and minke does not act on, so that a warning can tell a field
 * without effect from a field that nobody knows (a typing mistake).
 */

const CONTAINER = ["resizePolicy", "restartPolicyRules", "volumeDevices"];

const IN_OBJECT: Readonly<Record<string, readonly string[]>> = {
  containers: CONTAINER,
  initContainers: CONTAINER,
  metadata: ["finalizers", "managedFields", "ownerReferences", "selfLink"],
  resources: ["claims"],
  securityContext: ["fsGroupChangePolicy", "seLinuxChangePolicy", "seLinuxOptions", "windowsOptions"],
  spec: [
    "affinity",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostnameOverride",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "schedulerName",
    "schedulingGates",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "tolerations",
    "topologySpreadConstraints",
  ],
  sources: ["clusterTrustBundle", "podCertificate", "serviceAccountToken"],
  valueFrom: ["fileKeyRef"],
  volumeMounts: ["subPathExpr"],
  volumes: [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
  ],
};

/** True where Kubernetes has this field in the object at `path`. */
export function isKubernetesField(path: readonly PropertyKey[], key: string): boolean {
  const parent = path.findLast((part) => typeof part === "string");
  return typeof parent === "string" && (IN_OBJECT[parent]?.includes(key) ?? false);
}

/** Where doing without the field would give the container something else than was asked for: an error, never a warning. */
const NEVER_IGNORED: ReadonlySet<string> = new Set(["volumes", "sources", "valueFrom", "volumeMounts"]);

/** True where a known field of the object at `path` cannot be left out without changing what the pod is. */
export function isEssentialField(path: readonly PropertyKey[], key: string): boolean {
  const parent = path.findLast((part) => typeof part === "string");
  return typeof parent === "string" && NEVER_IGNORED.has(parent) && isKubernetesField(path, key);
}
