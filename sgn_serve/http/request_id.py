"""Give each request an id, by which its answer, its errors and its log lines can be found."""

import itertools
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_RAW_HEADER = HEADER.encode()
_KEY = "self_gradient.request_id"
_PLAIN = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# Unique without asking the system for random bytes at every request, which waits for other threads to let go.
_PROCESS = secrets.token_hex(8)
_NUMBER = itertools.count(1)
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class AssignRequestIds:
    """Give every request an id, and add it to the answer as the X-Request-ID header.

    The client's own id is kept where it is plain: up to 128 letters, digits and ._:/+=@-. Then it can break neither
    logs nor headers. Otherwise it is the trace id of a traceparent header (W3C Trace Context), or else a new one.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under an id."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        raw_name = assign_request_id(scope).encode("ascii")

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [header for header in message["headers"] if header[0] != _RAW_HEADER]
                message["headers"] = [*others, (_RAW_HEADER, raw_name)]
            await send(message)

        await self.app(scope, receive, named)


def assign_request_id(scope: Scope) -> str:
    """Choose a request's id, store it in the request's scope, and return it."""
    name: str = _choose(dict(scope["headers"]))
    scope[_KEY] = name
    return name


def request_id(scope: Scope) -> str:
    """Return the id of a request, which assign_request_id has stored."""
    return str(scope[_KEY])


def trace_id(scope: Scope) -> str | None:
    """Return the trace id of a request's traceparent header, None where it has none."""
    trace = _TRACE.fullmatch(dict(scope["headers"]).get(b"traceparent", b""))
    return trace[1].decode("ascii") if trace else None


def _choose(headers: dict[bytes, bytes]) -> str:
    own = headers.get(_RAW_HEADER, b"")
    if _PLAIN.fullmatch(own):
        return own.decode("ascii")
    trace = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    return trace[1].decode("ascii") if trace else f"{_PROCESS}{next(_NUMBER):016x}"
