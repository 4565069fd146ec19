"""Errors of the client: one class for each thing that a program does about them."""

from http import HTTPStatus
from typing import Any

import httpx

_PICTURE_CODES = frozenset(
    {
        "body_too_large",
        "damaged_image",
        "decoder_crashed",
        "empty_file",
        "not_an_image",
        "too_many_pixels",
        "too_slow_to_decode",
        "unsupported_pixels",
    }
)
_BUSY_CODES = frozenset({"overloaded", "rate_limited", "not_ready", "shutting_down", "too_many_connections"})
_BUSY_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_SHOWN_CHARACTERS = 200


class ClientError(Exception):
    """Base of everything that the client raises for what the service, or the way to it, does."""


class NoAnswer(ClientError):
    """There is no answer: no connection, or none in time. The message names the URL. `__cause__` is httpx's error."""


class ServiceError(ClientError):
    """The service refuses, or fails.

    Args:
        code: A constant for programs, such as "not_an_image"; docs/reference/errors.md lists all of them.
        message: A sentence for people: what is wrong, and the fix where there is one.
        request_id: The name of the request in the service's log, "" where the answer has none.
        status: The HTTP status of the answer. None for one picture of several, which has none of its own.
    """

    # The constructor's arguments stay in `args`, so that an error can be sent from one process to another.
    def __init__(self, code: str, message: str, request_id: str, status: int | None = None):
        super().__init__(code, message, request_id, status)
        self.code = code
        self.message = message
        self.request_id = request_id
        self.status = status

    def __str__(self) -> str:
        """Return the message with the code and, where there is one, the request's name."""
        named = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.code}{named})"


class PictureRefused(ServiceError):
    """The picture cannot be classified: it is damaged, too large, or no picture. Another try gives the same."""


class AccessRefused(ServiceError):
    """The token is missing or wrong, or the service lets nobody in from here."""


class Busy(ServiceError):
    """The service has no room, or limits this client, for longer than the client may wait. Try again later."""


class UnexpectedAnswer(ServiceError):
    """The answer is not the service's: another program answers, such as a proxy. Its code is "unexpected_answer"."""


def service_error(code: str, message: str, request_id: str, status: int | None = None) -> ServiceError:
    """Return the error of the class that its code or its status belongs to."""
    kind: type[ServiceError] = ServiceError
    if code in _PICTURE_CODES:
        kind = PictureRefused
    elif status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        kind = AccessRefused
    elif code in _BUSY_CODES or status in _BUSY_STATUSES:
        kind = Busy
    return kind(code, message, request_id, status)


def is_busy(response: httpx.Response) -> bool:
    """Return whether an answer asks to come again later. A proxy's answer counts as well as the service's."""
    return response.status_code in _BUSY_STATUSES


def error_of(response: httpx.Response) -> ServiceError:
    """Return what an answer that is no success says."""
    request_id = response.headers.get("x-request-id", "")
    try:
        error: Any = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        if is_busy(response):
            return Busy("unexpected_answer", _shown(response), request_id, response.status_code)
        return unexpected(response)
    return service_error(code, message, str(error.get("request_id", request_id)), response.status_code)


def unexpected(response: httpx.Response) -> UnexpectedAnswer:
    """Return the error of an answer that is not the service's."""
    return UnexpectedAnswer(
        "unexpected_answer", _shown(response), response.headers.get("x-request-id", ""), response.status_code
    )


def _shown(response: httpx.Response) -> str:
    where = f" to {response.headers['location']}" if response.is_redirect else ""
    text = " ".join(response.text.split())[:_SHOWN_CHARACTERS]
    return (
        f"{response.request.url} answered {response.status_code}{where} and not as the service does: {text!r}; check "
        "the client's url, its prefix too"
    )
