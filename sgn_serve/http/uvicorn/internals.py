"""The undocumented parts of uvicorn that the service touches, and the server that runs.

uvicorn offers no limits for the cases of sgn_serve/http/uvicorn/connection.py and no hook to add them. pyproject.toml
pins its minor version to the one that was tested, and missing_parts says which part a newer one has lost.

Two more modules touch such parts: connection.py, whose class is uvicorn's connection with limits, and
transports.py, which stands between it and its socket. What they use is listed here, so that there is one list.
"""

import asyncio
import inspect
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from sgn_serve.http.connections import ConnectionLimits
from sgn_serve.http.uvicorn.connection import Connection


class Part(NamedTuple):
    """An undocumented part of uvicorn, and why it is needed."""

    name: str
    why: str


PROTOCOL_PARTS = (
    Part("connection_made", "overridden: starts the timer of the first head, and refuses where too many are open"),
    Part("data_received", "overridden: counts bytes that the parser keeps, and ignores upgrades"),
    Part("eof_received", "overridden: answers clients that have closed their side"),
    Part("_start_asgi_task", "overridden: an answer to a request that is not read to its end closes the connection"),
    Part("_unset_keepalive_if_required", "called: something has arrived"),
    Part("parser", "replaced: a request that asks for an upgrade is parsed again without it"),
    Part("on_url", "keeps the target of the latest request as url, which is read"),
    Part("pipeline", "read: requests that wait for the answers before theirs"),
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
    Part("expect_100_continue", "set: HTTP/1.0 has no such answer"),
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
    Part("more_body", "read: whether the request has arrived to its end"),
    Part("keep_alive", "set: whether the connection goes on after the answer"),
)
SERVER_PARTS = (
    Part("config", "written to: which class makes connections, and how long requests may take at the end"),
    Part("handle_exit", "found by it: uvicorn registers this bound method for SIGTERM. Called when draining is over"),
    Part("should_exit", "read: whether a second signal asks to end at once"),
)
CONFIG_PARTS = (
    Part("http_protocol_class", "replaced: makes our connections from then on"),
    Part("loaded_app", "replaced: what connections from then on ask"),
    Part("proxy_headers", "read: whether it believes proxies"),
    Part("forwarded_allow_ips", "read: the proxies that it believes"),
    Part("timeout_graceful_shutdown", "set: how long requests may take at the end, in seconds"),
)


def missing_parts() -> list[str]:
    """Return one sentence for every part that the installed uvicorn lacks, none where all are there."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        """Answer nothing: only the objects around an application are looked at."""

    async def look() -> list[str]:
        config = Config(application)
        config.load()
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

    def answer_with(self, app: ASGIApp) -> None:
        """Have this application asked on every connection from now on, behind uvicorn's reading of proxies' headers."""
        config = self._server.config
        if config.proxy_headers:
            app = ProxyHeadersMiddleware(app, trusted_hosts=config.forwarded_allow_ips)  # type: ignore[assignment, arg-type]
        config.loaded_app = app

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
