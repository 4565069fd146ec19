"""What the service answers when it cannot answer: {"error": {"code", "message", "request_id"}}."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


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


def error_body(code: str, message: str, request_id: str) -> dict[str, Any]:
    """The JSON object that every error is."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}


def error_response(
    status: int, code: str, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as an answer."""
    return JSONResponse(error_body(code, message, request_id), status_code=int(status), headers=headers)
