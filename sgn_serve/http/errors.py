"""Map refusals to HTTP: their statuses, and the one form of every error answer.

The form is {"error": {"code", "message", "request_id"}}. Paths under /v2 have the Open Inference Protocol's form.
"""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple

from starlette.responses import JSONResponse
from starlette.types import Scope

from sgn_serve.common.refusals import CODES, Refusal
from sgn_serve.http.paths import is_protocol
from sgn_serve.http.request_id import request_id

NOT_READY = "the network does not answer, or this server is about to end"

_BY_STATUS: dict[HTTPStatus, tuple[str, ...]] = {
    HTTPStatus.BAD_REQUEST: (
        "empty_body",
        "bad_form",
        "bad_json",
        "damaged_encoding",
        "unknown_field",
        "unknown_parameter",
        "no_image",
        "not_a_file",
        "empty_file",
        "too_many_images",
        "bad_flag",
        "bad_top_k",
        "no_block",
        "no_auto",
        "no_gradient",
        "damaged_image",
        "bad_tensor_request",
        "bad_http",
        "no_websocket",
    ),
    HTTPStatus.UNAUTHORIZED: ("no_token", "wrong_token"),
    HTTPStatus.FORBIDDEN: ("admin_closed", "cross_origin_refused", "host_refused"),
    HTTPStatus.NOT_FOUND: ("not_found", "unknown_model", "no_examples"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed",),
    HTTPStatus.REQUEST_TIMEOUT: ("too_slow_request",),
    HTTPStatus.CONFLICT: ("model_refused",),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("body_too_large", "too_many_pixels", "too_slow_to_decode"),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
        "wrong_content_type",
        "not_an_image",
        "unsupported_pixels",
        "unsupported_encoding",
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY: ("decoder_crashed",),
    HTTPStatus.TOO_MANY_REQUESTS: ("rate_limited",),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: ("head_too_large",),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("internal_error",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("overloaded", "too_many_connections", "shutting_down", "not_ready"),
    HTTPStatus.GATEWAY_TIMEOUT: ("timeout",),
}
STATUS = MappingProxyType({code: status for status, codes in _BY_STATUS.items() for code in codes})
"""The status that each code is answered with."""

CLIENT_GONE = "client_gone"
"""Code in the log and in the metrics of a request whose client went away. Nobody is there to be answered with it."""


class RefusalRow(NamedTuple):
    """One row of the documentation's table of errors."""

    status: int
    code: str
    meaning: str


def refusal_rows() -> list[RefusalRow]:
    """Return every code that clients may be answered with, by status: the documentation's table of errors."""
    return [RefusalRow(status.value, code, CODES[code]) for code, status in STATUS.items()]


class RequestError(Refusal):
    """A request that cannot be answered, where the answer needs headers of its own.

    Args:
        code: One of sgn_serve.common.refusals.CODES, which has a status in STATUS.
        message: A sentence for people: what is wrong, and the fix where there is one.
        headers: Headers that the answer must have too.
        retry_after: See Refusal.
    """

    def __init__(
        self, code: str, message: str, headers: Mapping[str, str] | None = None, retry_after: int | None = None
    ):
        super().__init__(code, message, retry_after)
        self.headers = headers or {}


_CODE = "self_gradient.error_code"


def note_error(scope: Scope, code: str) -> None:
    """Store the code that a request is answered with, for its log line and for the metrics."""
    scope[_CODE] = code


def error_code(scope: Scope) -> str | None:
    """Return the code that a request was answered with, None where it was no error."""
    code: str | None = scope.get(_CODE)
    return code


def refusal_response(scope: Scope, refusal: Refusal) -> JSONResponse:
    """Return a refusal as the answer to a request."""
    headers = dict(refusal.headers) if isinstance(refusal, RequestError) else {}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    return error_response(scope, STATUS[refusal.code], refusal.code, refusal.message, headers)


def error_response(
    scope: Scope, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error as the answer to a request, in the form that its path has."""
    name = request_id(scope)
    note_error(scope, code)
    body: dict[str, Any] = {"error": {"code": code, "message": message, "request_id": name}}
    if is_protocol(scope["path"]):
        body = {"error": message, "code": code, "request_id": name}
    return JSONResponse(body, status_code=int(status), headers=headers)
