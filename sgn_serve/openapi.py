"""What the API takes and answers, errors included: as an OpenAPI document, and as BentoML's own clients want it."""

from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sgn_serve.form import IMAGE, IMAGES, MAX_TOP_K, SELF_GRADIENT, TOP_K
from sgn_serve.graph import Description
from sgn_serve.images import FORMATS
from sgn_serve.schemas import Prediction, Predictions, Refusal
from sgn_serve.settings import Settings

_MODELS: tuple[type[BaseModel], ...] = (Prediction, Predictions, Refusal)
_REFERENCE = "#/components/schemas/{model}"

_ERRORS = {
    HTTPStatus.BAD_REQUEST: "the form, a field or a parameter is not as it should be, or a picture is damaged",
    HTTPStatus.REQUEST_TIMEOUT: "the body took too long to arrive",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body has too many bytes, or a picture too many pixels",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the body is no multipart form, or the file no picture of a known format",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the server failed; its log tells why",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many pictures are waiting; Retry-After says when to come back",
}


def describe_api(settings: Settings, description: Description) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a service with these settings and this network."""
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
        },
        "components": {"schemas": schemas["$defs"]},
    }


def bentoml_schema() -> dict[str, Any]:
    """What `bentoml.SyncHTTPClient` reads from /schema.json to know which methods it has."""
    options = {SELF_GRADIENT: {"type": "boolean"}, TOP_K: {"type": "integer"}}
    file = {"type": "file", "format": "image"}

    def route(name: str, properties: dict[str, Any], required: str, output: dict[str, Any], doc: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": [required]}
        return {"name": name, "route": f"/{name}", "doc": doc, "input": schema, "output": output}

    several = {"type": "array", "items": file}
    return {
        "name": "RobustClassifier",
        "type": "service",
        "routes": [
            route("classify", {IMAGE: file, **options}, IMAGE, {"type": "object"}, "Classifies one picture."),
            route("classify_batch", {IMAGES: several, **options}, IMAGES, {"type": "object"}, "Classifies several."),
        ],
    }


def package_version() -> str:
    """Of the installed package; a Bento carries the code without it."""
    try:
        return version("self-gradient-networks")
    except PackageNotFoundError:
        return "unknown"


def _classify(settings: Settings) -> dict[str, Any]:
    return {
        "operationId": "classify",
        "summary": "Classifies one picture.",
        "description": f"The picture: {', '.join(FORMATS)}, at most {settings.max_pixels} pixels.",
        "parameters": _options(settings, as_parameters=True),
        "requestBody": _form({IMAGE: {"type": "string", "format": "binary"}}, IMAGE, settings),
        "responses": _answers(Prediction),
    }


def _classify_batch(settings: Settings) -> dict[str, Any]:
    several = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": settings.max_images,
    }
    return {
        "operationId": "classify_batch",
        "summary": "Classifies several pictures, each answered or refused on its own, in order.",
        "parameters": _options(settings, as_parameters=True),
        "requestBody": _form({IMAGES: several}, IMAGES, settings),
        "responses": _answers(Predictions),
    }


def _options(settings: Settings, as_parameters: bool) -> Any:
    """The fields beside the pictures: as query parameters, or as properties of the form."""
    schemas = {
        SELF_GRADIENT: {
            "type": "boolean",
            "description": f"block on, two passes, or off, one; {str(settings.self_gradient).lower()} if not said",
        },
        TOP_K: {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TOP_K,
            "description": f"how many classes to list; {settings.top_k} if not said",
        },
    }
    if not as_parameters:
        return schemas
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in schemas.items()]


def _form(files: dict[str, Any], required: str, settings: Settings) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {**files, **_options(settings, as_parameters=False)},
        "required": [required],
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _answers(model: type[BaseModel]) -> dict[str, Any]:
    answers = {"200": _answer("the answer", model)}
    for status, meaning in _ERRORS.items():
        answers[str(status.value)] = _answer(meaning, Refusal)
    return answers


def _answer(meaning: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "description": meaning,
        "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}},
    }
