"""The fields of ray.io/v1 RayCluster and RayJob: names, types, required ones and choices; anything else is refused.

Facts from KubeRay's ray-operator/apis/ray/v1/raycluster_types.go (as of August 2026, for 1.7) and rayjob_types.go
(commit 0057210ed5a94e830c864af372577328c3542b44). Compared, field by field, with the OpenAPI schema that the API server
applies: spec.jobTemplate of ray-operator/config/crd/bases/ray.io_raycronjobs.yaml (commit
0074504f84f22d26df800ebcd2e0a3e1490e2aef, before 1.7, whose newer fields it lacks), but for gcsFaultToleranceOptions,
headGroupSpec, submitterConfig, submissionMode and runtimeEnvYAML. Kubernetes' own types inside them, such as pod
templates, are left open here: the tests give those to Kubernetes' own schemas.
"""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
KUBERNETES: Schema = {"type": "object"}
KUBERNETES_LIST: Schema = {"type": "array", "items": KUBERNETES}


def _one_of(*choices: str) -> Schema:
    return {"enum": list(choices)}


def _object(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


MANAGER = _one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")

AUTH = _object(mode=_one_of("disabled", "token"), secretName=STRING, enableK8sTokenAuth=BOOLEAN)

AUTOSCALER = _object(
    resources=KUBERNETES,
    image=STRING,
    imagePullPolicy=_one_of("Always", "IfNotPresent", "Never"),
    securityContext=KUBERNETES,
    idleTimeoutSeconds=COUNT,
    upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
    version=_one_of("v1", "v2"),
    env=KUBERNETES_LIST,
    envFrom=KUBERNETES_LIST,
    volumeMounts=KUBERNETES_LIST,
    command={"type": "array", "items": STRING},
    args={"type": "array", "items": STRING},
)

HEAD = _object(
    ("template",),
    template=KUBERNETES,
    headService=KUBERNETES,
    enableIngress=BOOLEAN,
    ingressOptions=KUBERNETES,
    resources=STRINGS,
    labels=STRINGS,
    rayStartParams=STRINGS,
    serviceType=_one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)

WORKERS = _object(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    suspend=BOOLEAN,
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    priority={"type": "integer"},
    resources=STRINGS,
    labels=STRINGS,
    rayStartParams=STRINGS,
    template=KUBERNETES,
    scaleStrategy=_object(workersToDelete={"type": "array", "items": STRING}),
    numOfHosts=COUNT,
)

CLUSTER_SPEC = _object(
    ("headGroupSpec",),
    upgradeStrategy=_object(type=_one_of("Recreate", "None")),
    authOptions=AUTH,
    suspend=BOOLEAN,
    managedBy=MANAGER,
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=STRINGS,
    enableInTreeAutoscaling=BOOLEAN,
    gcsFaultToleranceOptions=KUBERNETES,
    headGroupSpec=HEAD,
    rayVersion=STRING,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)

JOB_SPEC = _object(
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER_SPEC,
    submitterPodTemplate=KUBERNETES,
    metadata=STRINGS,
    clusterSelector=STRINGS,
    submitterConfig=_object(backoffLimit=COUNT),
    managedBy=MANAGER,
    entrypoint=STRING,
    runtimeEnvYAML=STRING,
    jobId=STRING,
    submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode"),
    entrypointResources=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=BOOLEAN,
    suspend=BOOLEAN,
)


def _kind(name: str, spec: Schema) -> Schema:
    return _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": name},
        metadata=KUBERNETES,
        spec=spec,
    )


SCHEMAS = {"RayCluster": _kind("RayCluster", CLUSTER_SPEC), "RayJob": _kind("RayJob", JOB_SPEC)}
