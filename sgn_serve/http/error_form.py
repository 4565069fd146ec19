"""Answer every error in one form, whoever raised or answered it, and limit how long an answer may take."""

import asyncio
import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.errors import CLIENT_GONE, NOT_READY, error_response, note_error, refusal_response
from sgn_serve.http.request_id import request_id

logger = logging.getLogger("bentoml.sgn_serve")

ANSWER_SECONDS = 55.0
"""Time until a request's answer begins. Its parts have limits of their own, so that only a very slow network comes near
it. How long a client takes to read an answer is limited at its connection."""
_LONGEST_PATH = 200
"""Characters of a path that a message repeats."""


class FormatErrors:
    """Answer every error in the service's form: those that were raised, and those that BentoML and Starlette answered.

    A request that takes too long is an error too: BentoML's own time limit would answer it in another form.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer its error if there is one."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        begun = False
        body = b""
        limit = asyncio.timeout(ANSWER_SECONDS)

        def begin() -> None:
            nonlocal begun
            begun = True
            if not limit.expired():
                limit.reschedule(None)

        async def rewrite(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message  # BentoML's or Starlette's: our own errors are raised
                return
            if start is None or message["type"] != "http.response.body":
                begin()
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            begin()
            await _rewritten(start, body, scope)(scope, receive, send)

        try:
            async with limit:
                await self.app(scope, receive, rewrite)
        except Exception as error:
            if begun:
                raise  # the client has part of an answer already
            await _answer(error, scope)(scope, receive, send)


def _answer(error: Exception, scope: Scope) -> Response:
    """Return the answer to an exception."""
    if isinstance(error, Refusal):
        return refusal_response(scope, error)
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        return error_response(
            scope, status, _code(status), _message(status, b"", scope, error.headers or {}), error.headers
        )
    if isinstance(error, TimeoutError):
        return refusal_response(scope, Refusal("timeout", f"there was no answer within {ANSWER_SECONDS:g} s"))
    if isinstance(error, ClientDisconnect):
        note_error(scope, CLIENT_GONE)
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it
    logger.error("request %s failed", request_id(scope), exc_info=error)
    return refusal_response(
        scope, Refusal("internal_error", "the server failed; its log tells why, under this request_id")
    )


def _rewritten(start: Message, body: bytes, scope: Scope) -> Response:
    """Return an error that BentoML or Starlette answered in the service's form."""
    status = HTTPStatus(start["status"])
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in start["headers"]
        if name.lower() not in (b"content-length", b"content-type")
    }
    return error_response(scope, status, _code(status), _message(status, body, scope, headers), headers)


def _code(status: HTTPStatus) -> str:
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "not_ready"  # BentoML's /readyz
    return status.phrase.lower().replace(" ", "_")


def _message(status: HTTPStatus, body: bytes, scope: Scope, headers: Mapping[str, str]) -> str:
    path = scope["path"][:_LONGEST_PATH]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return NOT_READY
    if status == HTTPStatus.NOT_FOUND:
        return f"there is nothing at {path}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = next((value for name, value in headers.items() if name.lower() == "allow"), "")
        return f"{path} does not take {scope['method']}" + (f", but {allowed}" if allowed else "")
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
