"""Describe the routes of the Open Inference Protocol for the OpenAPI document."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from sgn_serve.api.infer_request import DATATYPES, HEADER_LENGTH
from sgn_serve.api.served_models import VERSION, output_names, served_models
from sgn_serve.common.graph_format import INPUT
from sgn_serve.http.paths import MODEL_PATHS, PROTOCOL, PROTOCOL_LIVE, PROTOCOL_READY
from sgn_serve.inference.graph import Description
from sgn_serve.records import AUTO
from sgn_serve.settings import Settings


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_STRING = {"type": "string"}
_SIZES = {"type": "array", "items": {"type": "integer"}}
_TENSOR = {"name": _STRING, "datatype": {"const": "FP32"}, "shape": _SIZES}
_INPUT = {**_TENSOR, "datatype": {"enum": ["FP32", "UINT8"]}}
_DECLARED = _object(["name", "datatype", "shape"], **_TENSOR)
_CONFIGURED = _object(["name", "data_type", "dims"], name=_STRING, data_type={"const": "TYPE_FP32"}, dims=_SIZES)
_CONFIGURED_INPUT = _object(
    ["name", "data_type", "format", "dims"],
    name=_STRING,
    data_type={"enum": ["TYPE_FP32", "TYPE_UINT8"]},
    format={"const": "FORMAT_NCHW"},
    dims=_SIZES,
)
_COUNT = {"type": "integer", "minimum": 0}
_DURATION = _object(["count", "ns"], count=_COUNT, ns=_COUNT)
_COMPUTE = ("compute_input", "compute_infer", "compute_output")
_STAGES = ("success", "fail", "queue", *_COMPUTE, "cache_hit", "cache_miss")
_RUNS = _object(["batch_size", *_COMPUTE], batch_size=_COUNT, **dict.fromkeys(_COMPUTE, _DURATION))

SCHEMAS: dict[str, Any] = {
    "ProtocolError": _object(["error", "code", "request_id"], error=_STRING, code=_STRING, request_id=_STRING),
    "ServerMetadata": _object(
        ["name", "version", "extensions"],
        name=_STRING,
        version=_STRING,
        extensions={"type": "array", "items": _STRING},
    ),
    "ModelMetadata": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=_STRING,
        versions={"type": "array", "items": _STRING},
        platform=_STRING,
        inputs={"type": "array", "items": _object(["name", "datatype", "shape"], **_INPUT)},
        outputs={"type": "array", "items": _DECLARED},
    ),
    "ModelConfig": _object(
        ["name", "platform", "backend", "max_batch_size", "dynamic_batching", "input", "output"],
        name=_STRING,
        platform=_STRING,
        backend=_STRING,
        max_batch_size={"type": "integer"},
        dynamic_batching={"type": "object"},
        input={"type": "array", "items": _CONFIGURED_INPUT},
        output={"type": "array", "items": _CONFIGURED},
    ),
    "ModelStatistics": _object(
        ["model_stats"],
        model_stats={
            "type": "array",
            "items": _object(
                ["name", "version", "last_inference", "inference_count", "execution_count"],
                name=_STRING,
                version=_STRING,
                last_inference={"type": "integer", "description": "milliseconds since 1970"},
                inference_count={**_COUNT, "description": "pictures that went through the network"},
                execution_count={**_COUNT, "description": "runs of the network"},
                inference_stats=_object(list(_STAGES), **dict.fromkeys(_STAGES, _DURATION)),
                response_stats={"type": "object"},
                batch_stats={"type": "array", "items": _RUNS},
                memory_usage={"type": "array"},
            ),
        },
    ),
    "ModelReady": _object(["name", "ready"], name=_STRING, ready={"type": "boolean"}),
    "ServerLive": _object(["live"], live={"type": "boolean"}),
    "ServerReady": _object(["ready"], ready={"type": "boolean"}),
    "InferAnswer": _object(
        ["model_name", "model_version", "outputs"],
        model_name=_STRING,
        model_version=_STRING,
        id=_STRING,
        parameters=_object(
            [],
            mode={"const": AUTO},
            self_gradient={
                "type": "string",
                "description": "for each picture true or false, separated by commas: whether the second pass ran",
            },
        ),
        outputs={
            "type": "array",
            "items": _object(
                ["name", "datatype", "shape"],
                **{**_TENSOR, "datatype": {"enum": ["FP32", "BYTES"]}},
                data={"type": "array", "items": {"type": ["number", "string"]}},
                parameters=_object([], binary_data_size={"type": "integer"}),
            ),
        },
    ),
}

_STATISTICS = "Returns how often the network ran since the start, and how long it took, in nanoseconds."


def paths(settings: Settings, description: Description, errors: Mapping[HTTPStatus, str]) -> dict[str, Any]:
    """Return the description of every path of the protocol.

    Args:
        settings: The service's settings.
        description: The served graph.
        errors: Meaning of each status that an inference may be refused with.
    """
    described: dict[str, Any] = {
        PROTOCOL: _get("v2_server", "Returns the server's name, version and extensions.", "ServerMetadata"),
        PROTOCOL_LIVE: _get("v2_live", "Tells whether the process answers.", "ServerLive"),
        PROTOCOL_READY: _get("v2_ready", "Tells whether the network answers.", "ServerReady", may_fail=True),
    }
    described[f"{PROTOCOL}/models/stats"] = _get("v2_stats", _STATISTICS, "ModelStatistics")
    names = [model.name for model in served_models(settings, description)]
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": names}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"const": VERSION}}
    of_one = (("", [name]), ("_version", [name, version]))
    for model, (suffix, parameters) in zip(MODEL_PATHS, of_one, strict=True):
        unknown = {"404": _answer("there is no such model", "ProtocolError")}
        described[model] = _get(
            f"v2_model{suffix}", "Returns the names and shapes of the graph's input and outputs.", "ModelMetadata"
        )
        described[f"{model}/ready"] = _get(
            f"v2_model_ready{suffix}", "Tells whether the network answers.", "ModelReady", may_fail=True
        )
        described[f"{model}/config"] = _get(
            f"v2_model_config{suffix}", "Returns the largest batch and the shapes of one picture.", "ModelConfig"
        )
        described[f"{model}/stats"] = _get(f"v2_model_stats{suffix}", _STATISTICS, "ModelStatistics")
        described[f"{model}/infer"] = {
            "post": {
                "operationId": f"v2_infer{suffix}",
                "summary": "Runs the graph on pictures that are already tensors.",
                "description": f"The body is JSON, or JSON and binary tensors; {HEADER_LENGTH} is the JSON's length.",
                "parameters": [{"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": _infer_request(settings, description)},
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    },
                },
                "responses": {
                    "200": {
                        "description": "the outputs, in binary if that was asked for",
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/InferAnswer"}},
                            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                        },
                    },
                    **{str(status.value): _answer(meaning, "ProtocolError") for status, meaning in errors.items()},
                },
            }
        }
        for path in (model, f"{model}/ready", f"{model}/config", f"{model}/stats", f"{model}/infer"):
            described[path]["parameters"] = parameters
            for operation in ("get", "post"):
                if operation in described[path]:
                    described[path][operation]["responses"].update(unknown)
    return described


def error(meaning: str, early: bool = False) -> dict[str, Any]:
    """Describe an error in the protocol's form.

    Args:
        meaning: The description of the error.
        early: Whether it may be answered before the path is known. It then has the service's own form.
    """
    if not early:
        return _answer(meaning, "ProtocolError")
    forms = [{"$ref": f"#/components/schemas/{schema}"} for schema in ("ProtocolError", "ErrorAnswer")]
    return {"description": meaning, "content": {"application/json": {"schema": {"anyOf": forms}}}}


def _infer_request(settings: Settings, description: Description) -> dict[str, Any]:
    shape = [{"type": "integer", "minimum": 1, "maximum": settings.max_images}]
    shape += [{"const": side} for side in (3, *description.image_size)]
    tensor = _object(
        ["name", "datatype", "shape"],
        name={"const": INPUT},
        datatype={"enum": list(DATATYPES)},
        shape={"type": "array", "prefixItems": shape, "minItems": 4, "maxItems": 4},
        data={
            "type": "array",
            "description": "numbers from 0 to 1, with UINT8 from 0 to 255, as many as the shape says, in one flat list "
            "or in nested lists",
        },
        parameters=_object([], binary_data_size={"type": "integer"}),
    )
    output = _object(
        ["name"],
        name={"enum": list(output_names(description))},
        parameters=_object(
            [],
            binary_data={"type": "boolean"},
            classification={"type": ["integer", "null"], "minimum": 1, "description": "largest classes to return"},
        ),
    )
    return _object(
        ["inputs"],
        id=_STRING,
        inputs={"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
        outputs={"type": "array", "items": output, "minItems": 1},
        parameters=_object(
            [],
            binary_data_output={"type": "boolean"},
            self_gradient={
                "enum": [True, AUTO],
                "description": "auto: the logits are those of the second pass only where the plain answer is not clear",
            },
        ),
    )


def _get(name: str, summary: str, schema: str, may_fail: bool = False) -> dict[str, Any]:
    answers = {"200": _answer("the answer", schema)}
    if may_fail:
        answers["503"] = _answer("not ready", "ProtocolError")
    return {"get": {"operationId": name, "summary": summary, "responses": answers}}


def _answer(meaning: str, schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": meaning, "content": {"application/json": {"schema": reference}}}
