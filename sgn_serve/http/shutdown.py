"""End a worker: say so, answer what was accepted, let clients go, and only then close the connections."""

import asyncio
import os
import signal
from types import FrameType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.connections import NEW_CONNECTION, ConnectionLimits
from sgn_serve.http.uvicorn.internals import RunningServer
from sgn_serve.process.worker_start import CHECK_SECONDS, is_worker, supervisor_pid

_LONGEST_ANSWER_SECONDS = 60
"""Time that uvicorn waits for requests at the end, a little more than one may take. Later ones are cut off."""
_RETRY_SECONDS = 1


class Shutdown:
    """End the process gracefully after SIGTERM.

    uvicorn by itself closes connections that are idle at that moment, while their clients may just be sending their
    next request. Here, for `seconds`, requests on connections that are there are answered, and the clients told not to
    send another on them. Requests on new connections get a 503. Then uvicorn closes the port and waits for what it
    still answers. With 0 seconds nobody gets a 503: a proxy that finds the port closed goes on to the next server by
    itself.

    Attributes:
        begun: Whether the process was told to end.
    """

    def __init__(self) -> None:
        self.begun = False

    def attach(self, limits: ConnectionLimits, seconds: float) -> None:
        """Take the process's signals over from uvicorn, and limit its connections. Call it on the event loop.

        Nothing happens where another server than uvicorn runs the application, as in a test.
        """
        server = RunningServer.find()
        if server is None:
            return
        server.limit_connections(limits, ending=lambda: self.begun and seconds > 0)
        server.wait_at_most(_LONGEST_ANSWER_SECONDS)
        loop = asyncio.get_running_loop()

        def end(number: int, frame: FrameType | None) -> None:
            if not self.begun:  # Ctrl-C sends SIGINT, and the supervisor SIGTERM after it: one of them counts
                self.begun = True
                loop.call_soon_threadsafe(loop.call_later, seconds, server.end, signal.SIGTERM, None)
            elif server.ending:
                server.end(number, frame)  # a second Ctrl-C: at once

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        if is_worker():
            self._watch_parent(loop)

    def _watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        """End with the supervisor: a worker whose supervisor was killed would hold its port for ever."""
        if supervisor_pid() is None:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            loop.call_later(CHECK_SECONDS, self._watch_parent, loop)


class CloseConnections:
    """Add `Connection: close` to every answer that is sent after the process was told to end."""

    def __init__(self, app: ASGIApp, shutdown: Shutdown):
        self.app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and close its connection after the answer once the process is to end."""

        async def closing(message: Message) -> None:
            if self._shutdown.begun and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self.app(scope, receive, closing)


class RefuseNewConnections:
    """Refuse requests on connections that were made after the process was told to end."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope.get(NEW_CONNECTION):
            raise Refusal("shutting_down", "this server is about to end", _RETRY_SECONDS)
        await self.app(scope, receive, send)
