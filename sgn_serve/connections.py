"""Connections that come to nothing: heads that do not arrive or do not end, answers that nobody reads, too many."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LATE = "self_gradient.late"
"""In a request's scope: its connection came after the process was told to end."""

MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class ConnectionLimits:
    """seconds: that a request's head may take to arrive, and an answer to be read on
    connections: open at the same time, at most
    """

    seconds: float
    connections: int


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits where it has none.

    uvicorn waits for ever for a head that has begun, keeps all of a head or a trailer however long it is, and waits for
    ever for a client that does not read. Bodies are limited where they are read (form.py, LimitBody).

    ending: whether the process was told to end
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, ending: Callable[[], bool], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._ending = ending
        self._late = False
        self._unparsed = 0
        self._open: list[RequestResponseCycle] = []
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for a head, or refuses the connection where there are too many."""
        super().connection_made(transport)
        self._late = self._ending()
        if len(self.connections) > self._limits.connections:
            self._refuse(b"503 Service Unavailable")
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Passes on what arrives, as long as the parser makes something of it."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._unparsed = 0
        self._stop(self._head_timer)
        self._head_timer = None
        self.scope[LATE] = self._late  # type: ignore[literal-required]
        super().on_headers_complete()
        self._open = [cycle for cycle in self._open if not cycle.response_complete] + [self.cycle]

    def on_body(self, body: bytes) -> None:
        """Some of a body is there."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        self._unparsed = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read on."""
        self._stop(self._write_timer)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._stop(self._head_timer)
        self._stop(self._write_timer)
        for cycle in self._open:  # uvicorn itself tells the last of them only, where a client sends several at once
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.seconds, self._refuse, b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Nobody has seen a request yet, so there is no application to answer it."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
