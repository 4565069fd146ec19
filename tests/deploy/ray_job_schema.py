"""The part of a RayJob's schema that deploy/ray uses. Everything else is refused, so that a misspelt field is seen.

It is written by hand, and is not KubeRay's own schema. Source: RayJobSpec, RayClusterSpec, HeadGroupSpec and
WorkerGroupSpec of KubeRay 1.7, in ray-operator/apis/ray/v1 of https://github.com/ray-project/kuberay. Pods are held
against Kubernetes' own schemas.
"""

from typing import Any

Schema = dict[str, Any]


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_TEXT: Schema = {"type": "string", "minLength": 1}
_SWITCH: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_POD: Schema = {"type": "object", "required": ["spec"]}

_HEAD = _object(("rayStartParams", "template"), rayStartParams=_TEXTS, template=_POD)
_WORKERS = _object(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    rayStartParams=_TEXTS,
    template=_POD,
)
_CLUSTER = _object(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    enableInTreeAutoscaling=_SWITCH,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
_SPEC = _object(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=_TEXT,
    backoffLimit=_COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=_SWITCH,
    ttlSecondsAfterFinished=_COUNT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    runtimeEnvYAML=_TEXT,
    rayClusterSpec=_CLUSTER,
)
RAY_JOB = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object(("name",), name=_TEXT, labels=_TEXTS),
    spec=_SPEC,
)
"""JSON schema of a RayJob."""
