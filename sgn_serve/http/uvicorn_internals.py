"""Everything that touches undocumented parts of uvicorn: its HTTP connection, and the server that runs.

uvicorn offers no limits for the cases below and no hook to add them, so its connection is subclassed. pyproject.toml
pins its minor version to the one that was tested, and missing_parts says which part a newer one has lost.
"""

import asyncio
import inspect
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from sgn_serve.http.access_log import log_refused_connection
from sgn_serve.http.connections import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_REQUESTS,
    NEW_CONNECTION,
    ConnectionLimits,
)
from sgn_serve.http.errors import STATUS, refusal_response
from sgn_serve.http.request_id import HEADER, assign_request_id
from sgn_serve.refusals import Refusal

_RETRY_SECONDS = 1


class Part(NamedTuple):
    """An undocumented part of uvicorn, and why it is needed."""

    name: str
    why: str


PROTOCOL_PARTS = (
    Part("connection_made", "overridden: starts the timer of the first head, and refuses where too many are open"),
    Part("data_received", "overridden: counts bytes that the parser keeps"),
    Part("on_header", "overridden: counts headers and trailers"),
    Part("on_headers_complete", "overridden: makes the cycle, whose transport is replaced"),
    Part("on_body", "overridden: a body is not a head"),
    Part("on_message_complete", "overridden: the next bytes are another head"),
    Part("send_400_response", "overridden: answers damaged HTTP in the service's form of errors"),
    Part("pause_writing", "overridden: starts the timer of a client that does not read"),
    Part("resume_writing", "overridden: stops it"),
    Part("connection_lost", "overridden: tells every request of a lost connection"),
    Part("connections", "counted: the connections of the server"),
    Part("cycle", "read: the latest request and its answer"),
    Part("headers", "read: the headers and trailers of the latest request"),
    Part("scope", "written to: whether the connection is new"),
    Part("transport", "written to: answers to what is no request"),
    Part("client", "read: the client's address"),
    Part("loop", "used: timers"),
)
CYCLE_PARTS = (
    Part("transport", "replaced by DeferredHead"),
    Part("scope", "read: the path of a request whose answer is due"),
    Part("response_started", "read: whether an answer can still be another one"),
    Part("response_complete", "read: whether an answer is due"),
    Part("disconnected", "set: uvicorn itself tells only the latest of several requests"),
    Part("message_event", "set: wakes a request that waits for its body"),
)
SERVER_PARTS = (
    Part("config", "written to: which class makes connections, and how long requests may take at the end"),
    Part("handle_exit", "found by it: uvicorn registers this bound method for SIGTERM. Called when draining is over"),
    Part("should_exit", "read: whether a second signal asks to end at once"),
)
CONFIG_PARTS = (
    Part("http_protocol_class", "replaced: makes our connections from then on"),
    Part("timeout_graceful_shutdown", "set: how long requests may take at the end, in seconds"),
)


def missing_parts() -> list[str]:
    """Return one sentence for every part that the installed uvicorn lacks, none where all are there."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        """Answer nothing: only the objects around an application are looked at."""

    async def look() -> list[str]:
        config = Config(application)
        protocol = HttpToolsProtocol(config, ServerState(), {})
        needed = inspect.signature(RequestResponseCycle).parameters
        cycle = RequestResponseCycle(**dict.fromkeys(needed))  # type: ignore[arg-type]
        objects: list[tuple[object, tuple[Part, ...]]] = [
            (protocol, PROTOCOL_PARTS),
            (cycle, CYCLE_PARTS),
            (Server(config), SERVER_PARTS),
            (config, CONFIG_PARTS),
        ]
        missing = [
            f"uvicorn's {type(owner).__name__} has no {part.name} any more, which is {part.why}"
            for owner, parts in objects
            for part in parts
            if not hasattr(owner, part.name)
        ]
        for name in vars(Connection).keys() & vars(HttpToolsProtocol).keys() - {"__init__", "__doc__", "__module__"}:
            theirs, ours = (
                list(inspect.signature(vars(owner)[name]).parameters) for owner in (HttpToolsProtocol, Connection)
            )
            if theirs != ours:
                missing.append(f"uvicorn's HttpToolsProtocol.{name} takes {theirs} now, which Connection overrides")
        return missing

    return asyncio.run(look())


class RunningServer:
    """The uvicorn server that runs this process's event loop."""

    def __init__(self, server: Server):
        self._server = server

    @classmethod
    def find(cls) -> "RunningServer | None":
        """Return the server whose signal handlers are in place, None where another server runs, as in a test."""
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        return cls(server) if isinstance(server, Server) else None

    def limit_connections(self, limits: ConnectionLimits, ending: Callable[[], bool]) -> None:
        """Make every connection from now on a Connection with these limits."""
        self._server.config.http_protocol_class = partial(  # type: ignore[assignment]
            Connection, limits=limits, ending=ending
        )

    def wait_at_most(self, seconds: int) -> None:
        """Limit how long the server waits at the end for requests that it still answers."""
        self._server.config.timeout_graceful_shutdown = seconds

    @property
    def ending(self) -> bool:
        """Return whether the server has been told to end."""
        return self._server.should_exit

    def end(self, number: int, frame: FrameType | None) -> None:
        """Tell the server to end, as the signal of that number would; a second time, to end at once."""
        self._server.handle_exit(number, frame)


class Connection(HttpToolsProtocol):
    """Limit what uvicorn's own connection leaves without a limit.

    uvicorn waits for ever for a head that has begun, keeps all of a head or a trailer however long it is, and all
    requests that are sent at once however many they are. It also waits for ever for a client that does not read.
    Bodies are limited where they are read (sgn_serve/api/form.py, LimitBody).

    Args:
        limits: See ConnectionLimits.
        ending: Returns whether the process was told to end.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, ending: Callable[[], bool], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._ending = ending
        self._new = False
        self._unparsed = 0
        self._open: list[RequestResponseCycle] = []
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, or refuse the connection where too many are open."""
        super().connection_made(transport)
        self._new = self._ending()
        if len(self.connections) > self._limits.connections:
            self._refuse("too_many_connections", "too many connections are open; try again in 1 s", _RETRY_SECONDS)
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Pass on what arrives, and refuse more than MAX_HEAD_BYTES of which the parser makes nothing."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header or a trailer.

        Raises:
            ValueError: It is one too many. This ends the parsing.
        """
        if len(self.headers) >= MAX_HEADERS:
            self._refuse_head()
            raise ValueError(f"more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take a whole head.

        Raises:
            ValueError: It is one request too many at once. This ends the parsing.
        """
        self._unparsed = 0
        self._open = [cycle for cycle in self._open if not cycle.response_complete]
        if len(self._open) >= MAX_REQUESTS:
            raise ValueError(f"more than {MAX_REQUESTS} requests at once")
        self._stop(self._head_timer)
        self._head_timer = None
        self.scope[NEW_CONNECTION] = self._new  # type: ignore[literal-required]
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:  # a WebSocket's head, which uvicorn hands to another protocol
            return
        if self.scope["method"] != "HEAD":
            self.cycle.transport = DeferredHead(self.cycle)  # type: ignore[assignment]
        self._open.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._unparsed = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer damaged HTTP in the service's form of errors instead of uvicorn's."""
        self._refuse("bad_http", "this is no HTTP request, or a damaged one")

    def pause_writing(self) -> None:
        """Start a timer: the client does not read as fast as it is answered."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the client has read on."""
        self._stop(self._write_timer)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and tell every request that its client has gone."""
        self._stop(self._head_timer)
        self._stop(self._write_timer)
        for cycle in self._open:  # uvicorn itself tells only the latest, where a client sends several at once
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(
            self._limits.seconds,
            self._refuse,
            "too_slow_request",
            f"the request's head took more than {self._limits.seconds:g} s to arrive",
        )

    def _refuse_head(self) -> None:
        self._refuse(
            "head_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
        )

    def _refuse(self, code: str, message: str, retry_after: int | None = None) -> None:
        """Answer instead of the application, which has seen no request, or not all of it, and close the connection.

        Where answers to earlier requests are due or under way, this one would be taken for theirs: then only close.
        """
        if self.transport.is_closing():
            return
        due = [cycle for cycle in self._open if not cycle.response_complete]
        path = due[0].scope["path"] if due else ""
        scope: Scope = {"path": path, "headers": [], "client": self.client}
        name = assign_request_id(scope)
        answer = refusal_response(scope, Refusal(code, message, retry_after))
        status = STATUS[code]
        if len(due) <= 1 and not any(cycle.response_started for cycle in due):
            head = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
            head += [b"%s: %s" % header for header in answer.raw_headers]
            head += [b"%s: %s" % (HEADER.encode(), name.encode()), b"connection: close"]
            self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()
        log_refused_connection(scope, status, self._limits.log)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class DeferredHead:
    """Stand between an answer and its connection: keep the head back until the first of the body is there.

    uvicorn writes one after the other. When the server is killed in between, a proxy has the head without the body,
    and may not ask another server any more, for it has passed the head on (nginx's proxy_next_upstream). A head that
    never gets a body is not written at all. Answers to HEAD have no body, so they are written directly.

    Args:
        cycle: The request and its answer. The caller makes this object its transport.
    """

    def __init__(self, cycle: RequestResponseCycle):
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._head: bytes | None = None
        self._passed_on = False

    def write(self, data: bytes) -> None:
        """Write, or keep what is the head."""
        if not self._cycle.response_started or self._passed_on:  # "100 Continue" comes before an answer
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._passed_on = True
            self._transport.write(self._head + data)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection was closed, or the client has gone."""
        return self._transport.is_closing()
