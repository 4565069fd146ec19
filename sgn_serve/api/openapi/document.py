"""What the API takes and answers, errors included: as an OpenAPI document, and as BentoML's own clients want it."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sgn_serve.api.form import IMAGE, IMAGES, MAX_TOP_K, SELF_GRADIENT, TOP_K
from sgn_serve.api.openapi import inference_protocol, page
from sgn_serve.http.connections import MAX_HEAD_BYTES, MAX_HEADERS
from sgn_serve.http.paths import is_open
from sgn_serve.inference.graph import Description
from sgn_serve.pictures.images import FORMATS
from sgn_serve.process.version import package_version
from sgn_serve.serving.answers import ErrorAnswer, Prediction, Predictions
from sgn_serve.serving.model_card import ModelCard
from sgn_serve.serving.reloading import Reloaded
from sgn_serve.settings import FLAGS, Settings

_MODELS: tuple[type[BaseModel], ...] = (Prediction, Predictions, ErrorAnswer, ModelCard, Reloaded)
METHODS = {"get", "post"}
_REFERENCE = "#/components/schemas/{model}"

ERRORS = {
    HTTPStatus.BAD_REQUEST: "the request, a field or a parameter is not as it should be, or a picture is damaged",
    HTTPStatus.REQUEST_TIMEOUT: "the body took too long to arrive",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes or pixels, or too much work to decode",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "not the kind of body that is expected, or no picture of a known format",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the server failed; its log tells why",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many pictures are waiting; Retry-After says when to come back",
    HTTPStatus.GATEWAY_TIMEOUT: "the network took too long",
}

_AT_THE_CONNECTION = {
    HTTPStatus.BAD_REQUEST: "this is no HTTP request, or a damaged one",
    HTTPStatus.REQUEST_TIMEOUT: "the request took too long to arrive",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the head is over {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers",
    HTTPStatus.SERVICE_UNAVAILABLE: "the server is about to end, or too many connections are open",
}
"""What a request may be answered before its path is known, or after."""

_RETRY_AFTER = {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "the request's own, or its traceparent's trace id, or a new one",
        "required": True,
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "what is needed", "required": True, "schema": {"type": "string"}},
    "Retry-After": _RETRY_AFTER | {"required": True},
    "Retry-After-If-Known": _RETRY_AFTER,
}
"""Described once, by their place among the document's components."""


def describe_api(settings: Settings, description: Description) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a service with these settings and this network."""
    document = _describe(settings, description)
    for path, operations in document["paths"].items():
        for method in METHODS & operations.keys():
            answers = operations[method]["responses"]
            if is_open(path):
                operations[method]["security"] = []
            for status, meaning in _for_all(settings, is_open(path)).items():
                told = answers.get(str(status.value), {}).get("description", meaning)
                early = status in _AT_THE_CONNECTION
                error = inference_protocol.error(told, early) if path.startswith("/v2") else _answer(told, ErrorAnswer)
                answers[str(status.value)] = error
            for number, answer in answers.items():
                answer["headers"] = _headers(int(number))
    if settings.api_tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _for_all(settings: Settings, open_to_all: bool) -> dict[HTTPStatus, str]:
    """What every request may be answered, by these settings."""
    statuses = dict(_AT_THE_CONNECTION)
    statuses[HTTPStatus.REQUEST_ENTITY_TOO_LARGE] = f"the body is larger than {settings.max_bytes} bytes"
    if settings.api_tokens and not open_to_all:
        statuses[HTTPStatus.UNAUTHORIZED] = "no token, or a wrong one"
    if settings.rate_limit and not open_to_all:
        statuses[HTTPStatus.TOO_MANY_REQUESTS] = "too many requests of this client; Retry-After says when to come back"
    return statuses


def _headers(status: int) -> dict[str, Any]:
    """What an answer's headers say, beside what HTTP itself wants there."""
    said = {"X-Request-ID": "X-Request-ID"}
    if status == HTTPStatus.UNAUTHORIZED:
        said["WWW-Authenticate"] = "WWW-Authenticate"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        said["Retry-After"] = "Retry-After"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        said["Retry-After"] = "Retry-After-If-Known"  # a network that does not answer knows no time
    return {name: {"$ref": f"#/components/headers/{component}"} for name, component in said.items()}


def _describe(settings: Settings, description: Description) -> dict[str, Any]:
    _, schemas = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Self-gradient network",
            "description": "Classifies pictures with a self-gradient network, with its block on or off. "
            f"Classes: {', '.join(description.class_names)}.",
            "version": package_version(),
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/classify": {"post": _classify(settings)},
            "/classify_batch": {"post": _classify_batch(settings)},
            "/explain": {"post": _explain(settings)},
            "/model": {
                "get": {
                    "operationId": "model",
                    "summary": "The model card: what is served, how it was trained and measured.",
                    "responses": {"200": _answer("the card", ModelCard)},
                }
            },
            "/healthz": _text("healthz", "Whether the process answers."),
            "/livez": _text("livez", "Whether the process answers."),
            "/readyz": _text("readyz", "Whether the network answers.", may_fail=True),
            "/metrics": _text("metrics", "Figures for Prometheus."),
            "/admin/reload": {
                "post": {
                    "operationId": "reload",
                    "summary": "Serves what the model's file holds now; closed while the service has no token.",
                    "responses": {
                        "200": _answer("what came of it", Reloaded),
                        "403": _answer("closed", ErrorAnswer),
                        "409": _answer("the new model cannot be served; the old one still is", ErrorAnswer),
                    },
                }
            },
            **inference_protocol.paths(settings, description, ERRORS),
            **page.paths(),
        },
        "components": {"schemas": {**schemas["$defs"], **inference_protocol.SCHEMAS}, "headers": HEADERS},
    }


def bentoml_schema() -> dict[str, Any]:
    """What `bentoml.SyncHTTPClient` reads from /schema.json to know which methods it has."""
    options = {SELF_GRADIENT: {"type": "boolean"}, TOP_K: {"type": "integer"}}
    file = {"type": "file", "format": "image"}
    several = {"type": "array", "items": file}
    answer = {"type": "object"}

    def route(name: str, field: str, properties: dict[str, Any], output: dict[str, Any], doc: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": [field]}
        return {"name": name, "route": f"/{name}", "doc": doc, "input": schema, "output": output}

    return {
        "name": "RobustClassifier",
        "type": "service",
        "routes": [
            route("classify", IMAGE, {IMAGE: file, **options}, answer, "Classifies one picture."),
            route("classify_batch", IMAGES, {IMAGES: several, **options}, answer, "Classifies several pictures."),
            route("explain", IMAGE, {IMAGE: file}, {"type": "file", "format": "image"}, "Draws the self-gradient."),
        ],
    }


def _classify(settings: Settings) -> dict[str, Any]:
    return {
        "operationId": "classify",
        "summary": "Classifies one picture.",
        "description": f"The picture: {', '.join(FORMATS)}, at most {settings.max_pixels} pixels. Where the form and "
        "the query both say how to answer, the form counts.",
        "parameters": _parameters(settings),
        "requestBody": _form(IMAGE, _PICTURE, _options(settings)),
        "responses": {"200": _answer("the answer", Prediction), **_errors()},
    }


def _classify_batch(settings: Settings) -> dict[str, Any]:
    several = {"type": "array", "items": _PICTURE, "minItems": 1, "maxItems": settings.max_images}
    return {
        "operationId": "classify_batch",
        "summary": "Classifies several pictures, each answered or refused on its own, in order.",
        "parameters": _parameters(settings),
        "requestBody": _form(IMAGES, several, _options(settings)),
        "responses": {"200": _answer("the answers", Predictions), **_errors()},
    }


def _explain(settings: Settings) -> dict[str, Any]:
    drawing = {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}}
    return {
        "operationId": "explain",
        "summary": "Draws where, and how strongly, the network's logits hang on the picture.",
        "description": "The magnitude of the self-gradient as a heat map over the picture as the network sees it.",
        "requestBody": _form(IMAGE, _PICTURE, {}),
        "responses": {"200": {"description": "the drawing", "content": drawing}, **_errors()},
    }


_PICTURE = {"type": "string", "format": "binary"}


def _options(settings: Settings) -> dict[str, Any]:
    """How to answer: fields of the form, or query parameters."""
    return {
        SELF_GRADIENT: {
            "enum": [True, False, *FLAGS],
            "description": f"block on, two passes, or off, one; {str(settings.self_gradient).lower()} if not said",
        },
        TOP_K: {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TOP_K,
            "description": f"how many classes to list; {settings.top_k} if not said",
        },
    }


def _parameters(settings: Settings) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in _options(settings).items()]


def _form(field: str, files: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    form = {
        "schema": {
            "type": "object",
            "properties": {field: files, **options},
            "required": [field],
            "additionalProperties": False,
        },
        "encoding": {field: {"contentType": "image/png, image/jpeg, image/webp, image/gif, image/bmp, image/tiff"}},
    }
    return {"required": True, "content": {"multipart/form-data": form}}


def _errors() -> dict[str, Any]:
    return {str(status.value): _answer(meaning, ErrorAnswer) for status, meaning in ERRORS.items()}


def _answer(meaning: str, model: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {"description": meaning, "content": {"application/json": {"schema": reference}}}


def _text(name: str, summary: str, may_fail: bool = False) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": "yes", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    if may_fail:
        answers["503"] = _answer("no", ErrorAnswer)
    return {"get": {"operationId": name, "summary": summary, "responses": answers}}
