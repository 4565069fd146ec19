"""Describe the API and its errors: as an OpenAPI document, and in the form that BentoML's own clients read."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sgn_serve.api.form import IMAGE, IMAGES, SELF_GRADIENT_FIELD, TOP_K
from sgn_serve.api.openapi import inference_protocol, page
from sgn_serve.http.connections import MAX_HEAD_BYTES, MAX_HEADERS
from sgn_serve.http.paths import CLASSIFY, CLASSIFY_BATCH, HEALTH, LIVE, METRICS, PROBES, READY, is_open, is_protocol
from sgn_serve.inference.graph import Description
from sgn_serve.pictures.formats import media_types
from sgn_serve.process.version import package_version
from sgn_serve.records import AUTO, MAX_TOP_K, ErrorAnswer, Examples, ModelCard, Prediction, Predictions
from sgn_serve.serving.reloading import Reloaded
from sgn_serve.setting_types import FLAGS
from sgn_serve.settings import Settings

_MODELS: tuple[type[BaseModel], ...] = (Prediction, Predictions, ErrorAnswer, ModelCard, Examples, Reloaded)
METHODS = {"get", "post"}
_REFERENCE = "#/components/schemas/{model}"

ERRORS = {
    HTTPStatus.BAD_REQUEST: "the request, a field or a parameter is wrong, or the picture is damaged",
    HTTPStatus.REQUEST_TIMEOUT: "the body took too long to arrive",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes or pixels, or the picture takes too long to decode",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "wrong content type of the body, or a picture in an unknown format",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the server failed; its log says why",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many pictures are waiting; try again after Retry-After",
    HTTPStatus.GATEWAY_TIMEOUT: "the network took too long to answer",
}

_AT_THE_CONNECTION = {
    HTTPStatus.BAD_REQUEST: "not an HTTP request, or a damaged one",
    HTTPStatus.REQUEST_TIMEOUT: "the request took too long to arrive",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"the request's head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: "the server is shutting down, or too many connections are open",
}
"""Errors that a connection may answer with, before the request's path is known or after."""

_RETRY_AFTER = {"description": "seconds to wait before trying again", "schema": {"type": "integer", "minimum": 1}}
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "the request's own X-Request-ID, else the trace id of its traceparent, else a new id",
        "required": True,
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "where the request has the header X-Server-Timing: 1, the milliseconds of each stage that it "
        "came to, and of all until the answer's head",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "the kind of token that is needed",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": _RETRY_AFTER | {"required": True},
    "Retry-After-If-Known": _RETRY_AFTER,
}
"""Headers of answers, by their names among the document's components."""


def describe_api(settings: Settings, description: Description, prefix: str = "") -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service.

    Args:
        settings: The service's settings; limits and defaults are described.
        description: The served graph.
        prefix: Path under which a proxy serves all paths, empty for none.
    """
    document = _describe(settings, description)
    document["servers"] = [{"url": prefix or "/"}]
    for path, operations in document["paths"].items():
        for method in METHODS & operations.keys():
            answers = operations[method]["responses"]
            if is_open(path):
                operations[method]["security"] = []
            for status, meaning in _for_all(settings, is_open(path), path in PROBES).items():
                told = answers.get(str(status.value), {}).get("description", meaning)
                early = status in _AT_THE_CONNECTION
                error = inference_protocol.error(told, early) if is_protocol(path) else _answer(told, ErrorAnswer)
                answers[str(status.value)] = error
            for number, answer in answers.items():
                answer["headers"] = _headers(int(number))
    if settings.api_tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _for_all(settings: Settings, open_to_all: bool, is_probe: bool) -> dict[HTTPStatus, str]:
    """Return the errors that any request may be answered with, and their meanings."""
    statuses = dict(_AT_THE_CONNECTION)
    statuses[HTTPStatus.REQUEST_ENTITY_TOO_LARGE] = f"the body is larger than {settings.max_bytes} bytes"
    if not settings.api_tokens and not is_probe:
        statuses[HTTPStatus.FORBIDDEN] = "the request comes from a page of another site, or asks for another host"
    if settings.api_tokens and not open_to_all:
        statuses[HTTPStatus.UNAUTHORIZED] = "no token, or a wrong token"
    if settings.rate_limit and not open_to_all:
        statuses[HTTPStatus.TOO_MANY_REQUESTS] = "too many requests from this client; try again after Retry-After"
    return statuses


def _headers(status: int) -> dict[str, Any]:
    """Describe the headers of an answer, without those that HTTP itself prescribes."""
    said = {"X-Request-ID": "X-Request-ID", "Server-Timing": "Server-Timing"}
    if status == HTTPStatus.UNAUTHORIZED:
        said["WWW-Authenticate"] = "WWW-Authenticate"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        said["Retry-After"] = "Retry-After"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        said["Retry-After"] = "Retry-After-If-Known"  # if the network does not answer, there is no time to tell
    return {name: {"$ref": f"#/components/headers/{component}"} for name, component in said.items()}


def _describe(settings: Settings, description: Description) -> dict[str, Any]:
    _, schemas = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Self-gradient network",
            "description": "Classifies pictures with a self-gradient network, its self-gradient block on, off or auto. "
            f"Classes: {', '.join(description.class_names)}.",
            "version": package_version(),
        },
        "paths": {
            CLASSIFY: {"post": _classify(settings)},
            CLASSIFY_BATCH: {"post": _classify_batch(settings)},
            "/explain": {"post": _explain(settings)},
            "/preprocess": {"post": _preprocess(settings)},
            "/model": {
                "get": {
                    "operationId": "model",
                    "summary": "Returns the model card: which model is served, how it was trained and measured.",
                    "responses": {"200": _answer("the model card", ModelCard)},
                }
            },
            "/model/examples": {
                "get": {
                    "operationId": "model_examples",
                    "summary": "Returns pictures of the model's data, with perturbations computed in advance.",
                    "responses": {
                        "200": _answer("the examples, with their PNG files as base64", Examples),
                        "404": _answer("there are no examples beside the served graph", ErrorAnswer),
                    },
                }
            },
            HEALTH: _text("healthz", "Tells whether the process answers."),
            LIVE: _text("livez", "Tells whether the process answers."),
            READY: _text("readyz", "Tells whether the network answers.", may_fail=True),
            METRICS: _text("metrics", "Returns metrics in Prometheus' text format."),
            "/admin/reload": {
                "post": {
                    "operationId": "reload",
                    "summary": "Reloads the model from its file. Closed while the service has no token.",
                    "responses": {
                        "200": _answer("the outcome of the reload", Reloaded),
                        "403": _answer("closed, because the service has no token", ErrorAnswer),
                        "409": _answer("the new model cannot be served; the old one is still served", ErrorAnswer),
                    },
                }
            },
            **inference_protocol.paths(settings, description, ERRORS),
            **page.paths(),
        },
        "components": {"schemas": {**schemas["$defs"], **inference_protocol.SCHEMAS}, "headers": HEADERS},
    }


def bentoml_schema() -> dict[str, Any]:
    """Return what `bentoml.SyncHTTPClient` reads from /schema.json to find the service's methods."""
    options = {SELF_GRADIENT_FIELD: {"type": ["boolean", "string"]}, TOP_K: {"type": "integer"}}
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
            route(
                "explain",
                IMAGE,
                {IMAGE: file},
                {"type": "file", "format": "image"},
                "Draws the self-gradient over one picture.",
            ),
            route(
                "preprocess",
                IMAGE,
                {IMAGE: file},
                {"type": "file", "format": "image"},
                "Returns one picture as the network sees it.",
            ),
        ],
    }


def _classify(settings: Settings) -> dict[str, Any]:
    return {
        "operationId": "classify",
        "summary": "Classifies one picture.",
        "description": f"Formats: {', '.join(settings.formats)}; at most {settings.max_pixels} pixels. If an option "
        "is given in the form and in the query, the form's value counts.",
        "parameters": _parameters(settings),
        "requestBody": _form(IMAGE, _PICTURE, _options(settings), settings),
        "responses": {"200": _answer("the answer", Prediction), **_errors()},
    }


def _classify_batch(settings: Settings) -> dict[str, Any]:
    several = {"type": "array", "items": _PICTURE, "minItems": 1, "maxItems": settings.max_images}
    return {
        "operationId": "classify_batch",
        "summary": "Classifies several pictures, in order. Each is answered or refused on its own.",
        "parameters": _parameters(settings),
        "requestBody": _form(IMAGES, several, _options(settings), settings),
        "responses": {"200": _answer("the answers", Predictions), **_errors()},
    }


_PNG = {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}}


def _explain(settings: Settings) -> dict[str, Any]:
    return {
        "operationId": "explain",
        "summary": "Draws the self-gradient: how much each pixel changes the sum of the logits.",
        "description": "A heat map of the self-gradient's magnitude over the picture, as the network sees it.",
        "requestBody": _form(IMAGE, _PICTURE, {}, settings),
        "responses": {"200": {"description": "the drawing", "content": _PNG}, **_errors()},
    }


def _preprocess(settings: Settings) -> dict[str, Any]:
    return {
        "operationId": "preprocess",
        "summary": "Returns a picture as the network sees it.",
        "description": "A PNG file of the network's size: turned upright, on the background, resized as the model card "
        "says. Classifying that file gives the same answer.",
        "requestBody": _form(IMAGE, _PICTURE, {}, settings),
        "responses": {"200": {"description": "the picture", "content": _PNG}, **_errors()},
    }


_PICTURE = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "contentEncoding": "base64", "description": "the picture's file, or its data URL"}


def _options(settings: Settings) -> dict[str, Any]:
    """Describe the options for the answer, which are fields of the form or query parameters."""
    return {
        SELF_GRADIENT_FIELD: {
            "enum": [True, False, *FLAGS, AUTO],
            "description": "block on (two passes), off (one pass), or auto (the second pass only where the plain "
            f"answer is not clear); default: {_default_of_block(settings)}",
        },
        TOP_K: {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TOP_K,
            "description": f"number of classes to list; default: {settings.top_k}",
        },
    }


def _default_of_block(settings: Settings) -> str:
    default = str(settings.self_gradient).lower()
    return default if settings.self_gradient is False else f"{default}, and false where the network has no block"


def _parameters(settings: Settings) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in _options(settings).items()]


def _form(field: str, files: dict[str, Any], options: dict[str, Any], settings: Settings) -> dict[str, Any]:
    form = {
        "schema": _body_schema(field, files, options),
        "encoding": {field: {"contentType": ", ".join(media_types(settings.formats))}},
    }
    also = {SELF_GRADIENT_FIELD: {"enum": [0, 1]}, TOP_K: {"type": "string", "pattern": "^[0-9]{1,4}$"}}
    loose = {name: {"anyOf": [schema, also[name], {"type": "null"}]} for name, schema in options.items()}
    in_json = {"schema": _body_schema(field, _in_base64(files), loose)}
    bare: dict[str, Any] = {"schema": {}}  # a body that is no JSON and no form has no schema
    return {
        "required": True,
        "description": "A form with files, JSON with the pictures as base64, or one picture as the whole body, with "
        "its options in the query. Any of them may be sent with Content-Encoding: gzip.",
        "content": {
            "multipart/form-data": form,
            "application/json": in_json,
            "image/*": bare,
            "application/octet-stream": bare,
        },
    }


def _body_schema(field: str, files: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field: files, **options},
        "required": [field],
        "additionalProperties": False,
    }


def _in_base64(files: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of files, or of one, in a body of JSON."""
    if "items" in files:
        return files | {"items": _BASE64}
    return _BASE64


def _errors() -> dict[str, Any]:
    return {str(status.value): _answer(meaning, ErrorAnswer) for status, meaning in ERRORS.items()}


def _answer(meaning: str, model: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {"description": meaning, "content": {"application/json": {"schema": reference}}}


def _text(name: str, summary: str, may_fail: bool = False) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "200": {"description": "the answer as text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    if may_fail:
        answers["503"] = _answer("not ready", ErrorAnswer)
    return {"get": {"operationId": name, "summary": summary, "responses": answers}}
