"""What stands around every request: a limit on the body, and errors in one form."""

import json
import logging
from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.errors import RequestError, error_response
from sgn_serve.settings import current_settings


class LimitBody:
    """Refuses a body of more than max_bytes: at once where its length is declared, else while it streams in."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.settings = current_settings()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.settings.max_bytes:
            error = self._too_large()
            # Close, for nobody reads what the client goes on sending.
            response = error_response(error.status, error.code, error.message, self.settings, {"connection": "close"})
            await response(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.settings.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> RequestError:
        return RequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "body_too_large",
            f"the request body is larger than {self.settings.max_bytes} bytes",
        )


class FlatErrors:
    """Rewrites every error answer that is not ours already (BentoML's, Starlette's) into our one form."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.settings = current_settings()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def rewrite(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            if is_flat(body):
                await send(start)
                await send({"type": "http.response.body", "body": body})
            else:
                await self._answer(start, body, scope, receive, send)

        await self.app(scope, receive, rewrite)

    async def _answer(self, start: Message, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        status = HTTPStatus(start["status"])
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in start["headers"]
            if name.lower() not in (b"content-length", b"content-type")
        }
        message = _message(status, body, scope)
        response = error_response(status, status.phrase.lower().replace(" ", "_"), message, self.settings, headers)
        await response(scope, receive, send)


def is_flat(body: bytes) -> bool:
    """Whether an error's body is {"error": {...}} already."""
    content = _json(body)
    return isinstance(content, dict) and isinstance(content.get("error"), dict)


def _message(status: HTTPStatus, body: bytes, scope: Scope) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return f"there is nothing at {scope['path']}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{scope['path']} does not take {scope['method']}"
    content = _json(body)
    while isinstance(content, list) and content:
        content = content[0]
    if isinstance(content, dict) and isinstance(content.get("error"), str):
        return content["error"]
    return status.description or status.phrase


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def without_client_faults(record: logging.LogRecord) -> bool:
    """Logging filter: drops BentoML's stack traces for requests that were answered with a 4xx."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, BentoMLException) and error.error_code < HTTPStatus.INTERNAL_SERVER_ERROR)
