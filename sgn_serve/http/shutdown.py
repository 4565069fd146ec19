"""How a worker ends: it says so, answers what it took, lets clients go, and only then closes its connections."""

import asyncio
import os
import signal
from functools import partial
from http import HTTPStatus
from types import FrameType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import Server

from sgn_serve.http.connections import LATE, Connection, ConnectionLimits
from sgn_serve.http.errors import RequestError
from sgn_serve.process.parent import supervisor_pid

_LONGEST_ANSWER_SECONDS = 60
"""What a request may take at most, and a little more: whoever takes longer is cut off at the end."""
_PARENT_CHECK_SECONDS = 1.0


class Ending:
    """From SIGTERM to the end of the process.

    uvicorn by itself closes connections that are idle at that moment, while their clients may just be sending their
    next request. Here, for `seconds`, requests on connections that are there are answered, and the clients told not to
    send another on them; those on new connections get a 503. Then uvicorn closes the port and waits for what it still
    answers. With 0 seconds nobody gets a 503: a proxy that finds the port closed goes on to the next server by itself.
    """

    def __init__(self) -> None:
        self.begun = False

    def attach(self, limits: ConnectionLimits, seconds: float) -> None:
        """Takes the process's signals over from uvicorn, and sees to its connections; called on its event loop.

        Does nothing where another server than uvicorn runs the application, as in a test.
        """
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not isinstance(server, Server):
            return
        server.config.http_protocol_class = partial(  # type: ignore[assignment]
            Connection, limits=limits, ending=lambda: self.begun and seconds > 0
        )
        server.config.timeout_graceful_shutdown = _LONGEST_ANSWER_SECONDS
        loop = asyncio.get_running_loop()

        def end(number: int, frame: FrameType | None) -> None:
            if not self.begun:  # Ctrl-C sends SIGINT, and the supervisor SIGTERM after it: one of them counts
                self.begun = True
                loop.call_soon_threadsafe(loop.call_later, seconds, server.handle_exit, signal.SIGTERM, None)
            elif server.should_exit:
                server.handle_exit(number, frame)  # a second Ctrl-C: at once

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        if supervisor_pid() is not None:
            self._watch_parent(loop)

    def _watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        """A worker whose supervisor was killed would hold its port for ever."""
        if supervisor_pid() is None:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            loop.call_later(_PARENT_CHECK_SECONDS, self._watch_parent, loop)


class SayGoodbye:
    """Has every answer that is sent after the process was told to end say `Connection: close`."""

    def __init__(self, app: ASGIApp, ending: Ending):
        self.app = app
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if self._ending.begun and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self.app(scope, receive, closing)


class RefuseLate:
    """Answers requests on connections that came after the process was told to end."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(LATE):
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE, "shutting_down", "this server is about to end", {"retry-after": "1"}
            )
        await self.app(scope, receive, send)
