"""Limit the size of each request body, and the memory of all of them together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.http.errors import RequestError
from sgn_serve.http.paths import is_protocol
from sgn_serve.telemetry.ledger import clock, current_ledger

RECEIVED_BYTES = 12 * 1024 * 1024
"""Memory for all the bodies that are being received, or wait. It is what 300 MB leave beside the largest picture's
decoding, and room for 48 uploads of any size at the same time."""
SMALL_BYTES = 16 * 1024
"""A body up to this is taken even when RECEIVED_BYTES are used up: stalled uploads keep no small picture out."""
IN_MEMORY_BYTES = 256 * 1024
"""Memory that all files of one form may take. Larger files wait on the disk to be decoded."""
_RETRY_SECONDS = 1


def media_type(content_type: str) -> str:
    """Return the media type of a Content-Type header, without its parameters, in lower case."""
    return content_type.split(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type header says JSON, which is held in memory as a whole."""
    return media_type(content_type) == "application/json"


@asynccontextmanager
async def limit_time(seconds: float) -> AsyncIterator[None]:
    """Limit how long the `async with` block, which reads a body, may take.

    Raises:
        RequestError: It takes longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RequestError(
            "too_slow_request",
            f"the request's body took more than {seconds:g} s to arrive",
            {"connection": "close"},
        ) from None


class LimitBody:
    """Limit each body, and all of them together.

    A body of more than max_bytes is refused: at once where its length is declared, else while it streams in. So is one
    that would need more memory than there is for the bodies of all the requests that are not yet answered.

    Args:
        app: The application to protect.
        max_bytes: Largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes
        self._room = max(RECEIVED_BYTES, self.max_bytes)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count what it reads of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # While Starlette sends a file, it would read a body that nobody wants, only to learn whether the client is
        # there. A refusal of that body would then break the answer off. From this version of ASGI on it does not.
        scope["asgi"] = {**scope.get("asgi", {}), "spec_version": "2.4"}
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0").lstrip(b"0")  # int() refuses thousands of leading zeros
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large()
        whole = is_protocol(scope["path"]) or is_json(headers.get(b"content-type", b"").decode("latin-1"))
        most = self.max_bytes if whole else IN_MEMORY_BYTES
        received = held = 0
        ledger = current_ledger()
        more_body = True

        async def counted() -> Message:
            nonlocal received, held, more_body
            if more_body:  # after the body's end, receive waits until the client disconnects
                since = clock()
                try:
                    message = await receive()
                finally:
                    ledger.note_received(since)
                more_body = message.get("more_body", False)
            else:
                message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._too_large()
            self._held -= held
            held = min(received, most)
            self._held += held
            if self._held > self._room and held > SMALL_BYTES:
                raise self._no_room()
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held -= held

    def _no_room(self) -> RequestError:
        return RequestError(
            "overloaded",
            "too many bodies are being received; try again in 1 s",
            {"connection": "close"},
            _RETRY_SECONDS,
        )

    def _too_large(self) -> RequestError:
        return RequestError(
            "body_too_large",
            f"the request body is larger than {self.max_bytes} bytes",
            {"connection": "close"},  # nobody reads what the client goes on sending
        )
