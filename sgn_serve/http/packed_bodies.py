"""Unpack bodies that are sent as gzip (RFC 9110, section 8.4), a little at a time and never more than is allowed."""

import asyncio
import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.http.errors import RequestError

GZIP = (b"gzip", b"x-gzip")
_HEADERS = (b"content-encoding", b"transfer-encoding")
"""Headers that say how a body is packed. Chunks are put together at the connection."""
_PLAIN = (b"", b"identity", b"chunked")
_STEP_BYTES = 64 * 1024
"""Bytes that are unpacked at once: others are answered in between."""
_MAX_MEMBERS = 1000
"""Members of one gzip file, each of which may hold nothing."""
_GZIP_FORMAT = 31


class UnpackBody:
    """Unpack each body whose Content-Encoding or Transfer-Encoding is gzip, and refuse every other encoding.

    It stands around LimitBody, which counts what comes out. What goes in is limited here.

    Args:
        app: The application that reads plain bodies.
        max_bytes: Largest body, packed, in bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a plain body."""
        if scope["type"] == "http":
            lists = [value.lower().split(b",") for name, value in scope["headers"] if name in _HEADERS]
            encodings = [name for names in lists for part in names if (name := part.strip()) not in _PLAIN]
            if encodings:
                # Changed in place: the middleware outside looks at the same scope.
                scope["headers"] = [header for header in scope["headers"] if header[0] != _HEADERS[0]]
                packed = len(encodings) == 1 and encodings[0] in GZIP
                receive = _Unpacker(receive, self._max_bytes) if packed else _refusing(receive, encodings)
        await self.app(scope, receive, send)


class _Unpacker:
    """Receive a gzip body, unpacked.

    Args:
        receive: Returns the messages of the packed body.
        max_bytes: Largest body, packed, in bytes.
    """

    def __init__(self, receive: Receive, max_bytes: int):
        self._receive = receive
        self._max_bytes = max_bytes
        self._received = 0
        self._more_body = True
        self._packed = b""
        self._full = False  # there may be more inside the inflater
        self._members = 0
        self._inflater = zlib.decompressobj(_GZIP_FORMAT)
        self._inside = False

    async def __call__(self) -> Message:
        """Return the next message of the unpacked body.

        Raises:
            RequestError: It is no gzip, cut off, or too large.
        """
        while True:
            if self._packed or self._full:
                unpacked = self._unpack()
                if unpacked:
                    await asyncio.sleep(0)
                    return {"type": "http.request", "body": unpacked, "more_body": True}
            elif not self._more_body:
                if self._inside:
                    raise _damaged("it is cut off")
                return {"type": "http.request", "body": b"", "more_body": False}
            else:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._more_body = message.get("more_body", False)
                self._packed = message.get("body", b"")
                self._received += len(self._packed)
                if self._received > self._max_bytes:
                    raise RequestError(
                        "body_too_large",
                        f"the request body is larger than {self._max_bytes} bytes",
                        {"connection": "close"},
                    )

    def _unpack(self) -> bytes:
        if not self._inside:
            self._members += 1
            if self._members > _MAX_MEMBERS:
                raise _damaged(f"it has more than {_MAX_MEMBERS} members")
            self._inflater = zlib.decompressobj(_GZIP_FORMAT)
            self._inside = True
        try:
            unpacked = self._inflater.decompress(self._packed, _STEP_BYTES)
        except zlib.error:
            raise _damaged("it cannot be unpacked") from None
        if self._inflater.eof:
            self._inside = self._full = False
            self._packed = self._inflater.unused_data
        else:
            self._full = len(unpacked) == _STEP_BYTES
            self._packed = self._inflater.unconsumed_tail
        return unpacked


def _refusing(receive: Receive, encodings: list[bytes]) -> Receive:
    """Return a receive function that accepts an empty body and refuses any other."""

    async def refused() -> Message:
        message = await receive()
        if message.get("body"):
            named = b", ".join(encodings).decode("latin-1")[:100]
            raise RequestError(
                "unsupported_encoding",
                f"the body is packed as {named}: send it plain, or as gzip",
                {"accept-encoding": "gzip"},
            )
        return message

    return refused


def _damaged(what: str) -> RequestError:
    return RequestError("damaged_encoding", f"the body is sent as gzip, but {what}")
