"""What the service answers when it cannot answer: {"error": {"code", "message", "request_id"}}."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

from sgn_serve.http.request_id import request_id

NOT_READY = "the network does not answer, or this server is about to end"


class RequestError(Exception):
    """A request that cannot be answered: by the client's doing, or because too many came at once.

    status:  the status to answer with, 4xx or 503
    code:    a short constant for programs, such as not_an_image
    message: a sentence for people: what is wrong, and the fix where there is one
    headers: what the answer's headers must say too
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = int(status)
        self.code = code
        self.message = message
        self.headers = headers


_CODE = "self_gradient.error_code"


def note_error(scope: Scope, code: str) -> None:
    """Remembers what a request was answered with, for its log line and for the metrics."""
    scope[_CODE] = code


def error_code(scope: Scope) -> str | None:
    """The code that a request was answered with; None where it was no error."""
    code: str | None = scope.get(_CODE)
    return code


def error_response(
    scope: Scope, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as the answer to a request."""
    name = request_id(scope)
    note_error(scope, code)
    body: dict[str, Any] = {"error": {"code": code, "message": message, "request_id": name}}
    if scope["path"].startswith("/v2"):  # see inference_protocol
        body = {"error": message, "code": code, "request_id": name}
    return JSONResponse(body, status_code=int(status), headers=headers)
