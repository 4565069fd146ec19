"""What the service answers when it cannot answer: one flat JSON object, with what is wrong and what is accepted."""

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from sgn_serve.images import FORMATS
from sgn_serve.settings import Settings


class RequestError(Exception):
    """A request that cannot be answered, by the client's doing.

    status:  the 4xx to answer with
    code:    a short constant for programs, such as not_an_image
    message: a sentence for people: what is wrong, and the fix where there is one
    """

    def __init__(self, status: HTTPStatus, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def error_response(
    status: int, code: str, message: str, settings: Settings, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The JSON answer {"error": {"status", "code", "message", "accepted"}}."""
    error = {"status": int(status), "code": code, "message": message, "accepted": accepted(settings)}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def accepted(settings: Settings) -> dict[str, Any]:
    """What a good request looks like, for every error to say."""
    return {
        "request": "POST /classify",
        "content_type": "multipart/form-data",
        "fields": {
            "image": f"one picture file: {', '.join(FORMATS)}",
            "self_gradient": "true or false (optional; also as a query parameter)",
        },
        "max_bytes": settings.max_bytes,
        "max_pixels": settings.max_pixels,
        "example": "curl -F image=@x.png http://localhost:3000/classify",
    }
