"""One name for each request, by which its answer, its errors and its log lines can be found."""

import itertools
import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_KEY = "self_gradient.request_id"
_PLAIN = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# Unique without asking the system for random bytes at every request, which waits for other threads to let go.
_PROCESS = secrets.token_hex(8)
_NUMBER = itertools.count(1)
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class NameRequests:
    """Gives every request an id, and says it in the answer's X-Request-ID header.

    The client's own is kept where it is plain (up to 128 letters, digits and ._:/+=@-, so that it can break neither
    logs nor headers); else it is the trace id of a traceparent header (W3C Trace Context); else a new one.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = name_request(scope)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        await self.app(scope, receive, named)


def name_request(scope: Scope) -> str:
    """Gives a request its id."""
    name: str = _choose(dict(scope["headers"]))
    scope[_KEY] = name
    return name


def request_id(scope: Scope) -> str:
    """The id of a request that has been given one."""
    return str(scope[_KEY])


def trace_id(scope: Scope) -> str | None:
    """The trace id of a request's traceparent header, where it has one."""
    trace = _TRACE.fullmatch(dict(scope["headers"]).get(b"traceparent", b""))
    return trace[1].decode("ascii") if trace else None


def _choose(headers: dict[bytes, bytes]) -> str:
    own = headers.get(HEADER.encode(), b"")
    if _PLAIN.fullmatch(own):
        return own.decode("ascii")
    trace = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    return trace[1].decode("ascii") if trace else f"{_PROCESS}{next(_NUMBER):016x}"
