"""Stand between a connection and its socket: close it without losing an answer, and write an answer as a whole.

internals.py lists what is used of uvicorn's class of a request and its answer.
"""

import asyncio
import weakref
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from sgn_serve.http.connections import LINGER_SECONDS


class LingeringTransport:
    """Stand between a connection and its socket: where the client may still be sending, close in two steps.

    A socket that is closed with something unread is reset, and the answer is lost on its way. The first call of close()
    ends the writing alone. What arrives until the client closes its side is thrown away, for a limited time.

    Args:
        transport: The event loop's transport.
        loop: The event loop.
        seconds: Longest time between the two steps.
        lingers: Returns whether the client may still be sending.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        lingers: Callable[[], bool],
    ):
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        self._lingers = lingers
        self._last_moment: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.can_linger = transport.can_write_eof()
        self.write = transport.write
        self.abort = transport.abort
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info

    def is_closing(self) -> bool:
        """Return whether the connection was closed, in one step or in two, or the client has gone."""
        return self._last_moment is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is written; where the client may still be sending, a little later."""
        if self.is_closing() or not self.can_linger or not self._lingers():
            self.stop_lingering()
            self._transport.close()
            return
        self._last_moment = self._loop.time() + self._seconds
        self._transport.write_eof()
        self._transport.resume_reading()
        self.go_on_lingering()

    def go_on_lingering(self) -> None:
        """Wait for more to arrive, where the connection lingers."""
        self.stop_lingering()
        if self._last_moment is not None:
            moment = min(self._loop.time() + LINGER_SECONDS, self._last_moment)
            self._timer = self._loop.call_at(moment, self._transport.close)

    def stop_lingering(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_lost(self) -> None:
        """Take note that the connection is gone, and let go of the connection's object, which holds this one."""
        self.stop_lingering()
        self._lingers = _never


def _never() -> bool:
    return False


class DeferredHead:
    """Stand between an answer and its connection: keep the head back until the first of the body is there.

    uvicorn writes one after the other. When the server is killed in between, a proxy has the head without the body. It
    may not ask another server any more, for it has passed the head on (nginx's proxy_next_upstream). A head that never
    gets a body is not written at all. Answers to HEAD have no body, so they are written directly.

    Args:
        cycle: The request and its answer. The caller makes this object its transport. It is held weakly: else it would
            stay, with what was received of its body, until the next garbage collection.
    """

    def __init__(self, cycle: RequestResponseCycle):
        self._cycle = weakref.ref(cycle)
        self._transport = cycle.transport
        self._head: bytes | None = None
        self._passed_on = False

    def write(self, data: bytes) -> None:
        """Write to the connection, or hold the data back if it is the head."""
        cycle = self._cycle()
        if self._passed_on or cycle is None or not cycle.response_started:  # "100 Continue" comes before an answer
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
