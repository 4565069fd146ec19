"""Connections that come to nothing: heads that do not arrive or do not end, answers that nobody reads, too many."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sgn_serve.http.access_log import tell_refused
from sgn_serve.http.errors import error_response
from sgn_serve.http.request_id import HEADER, name_request

LATE = "self_gradient.late"
"""In a request's scope: its connection came after the process was told to end."""

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
"""Each takes far more memory than its bytes."""
MAX_REQUESTS = 16
"""On one connection, each sent before the one before it is answered: hardly any client does so at all."""


@dataclass(frozen=True)
class ConnectionLimits:
    """seconds: that a request's head may take to arrive, and an answer to be read on
    connections: open at the same time, at most
    log: whether connections that are refused are logged
    """

    seconds: float
    connections: int
    log: bool


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits where it has none.

    uvicorn waits for ever for a head that has begun, keeps all of a head or a trailer however long it is, and all
    requests that are sent at once however many they are, and waits for ever for a client that does not read. Bodies are
    limited where they are read (form.py, LimitBody).

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
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too_many_connections",
                "too many connections are open; try again in 1 s",
            )
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Passes on what arrives, as long as the parser makes something of it."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is there, or a trailer. raises ValueError, which ends the parsing, where it is one too many"""
        if len(self.headers) >= MAX_HEADERS:
            self._refuse_head()
            raise ValueError(f"more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is there. raises ValueError, which ends the parsing, where it is one too many"""
        self._unparsed = 0
        self._open = [cycle for cycle in self._open if not cycle.response_complete]
        if len(self._open) >= MAX_REQUESTS:
            raise ValueError(f"more than {MAX_REQUESTS} requests at once")
        self._stop(self._head_timer)
        self._head_timer = None
        self.scope[LATE] = self._late  # type: ignore[literal-required]
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:  # a WebSocket's head, which uvicorn hands to another protocol
            return
        if self.scope["method"] != "HEAD":
            self.cycle.transport = WholeAnswer(self.cycle)  # type: ignore[assignment]
        self._open.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Some of a body is there."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        self._unparsed = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What arrived is no HTTP: in our form of errors instead of uvicorn's."""
        self._refuse(HTTPStatus.BAD_REQUEST, "bad_http", "this is no HTTP request, or a damaged one")

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
        self._head_timer = self.loop.call_later(
            self._limits.seconds,
            self._refuse,
            HTTPStatus.REQUEST_TIMEOUT,
            "too_slow_request",
            f"the request's head took more than {self._limits.seconds:g} s to arrive",
        )

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            f"the request's head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers",
        )

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        """Answers instead of the application, which has seen no request, or not all of it, and closes the connection.

        Where answers to earlier requests are due or under way, this one would be taken for theirs: then it only closes.
        """
        if self.transport.is_closing():
            return
        due = [cycle for cycle in self._open if not cycle.response_complete]
        path = due[0].scope["path"] if due else ""
        scope: Scope = {"path": path, "headers": [], "client": self.client}
        headers = {HEADER: name_request(scope), "connection": "close"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = "1"
        answer = error_response(scope, status, code, message, headers)
        if len(due) <= 1 and not any(cycle.response_started for cycle in due):
            head = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
            head += [b"%s: %s" % header for header in answer.raw_headers]
            self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()
        tell_refused(scope, status, self._limits.log)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class WholeAnswer:
    """What a request's answer is written to: keeps its head back until the first of its body is there.

    uvicorn writes one after the other. When the server is killed in between, a proxy has the head without the body,
    and may not ask another server any more, for it has passed the head on (nginx's proxy_next_upstream). A head that
    never gets a body is not written at all. Not for answers to HEAD, which have none.

    cycle: the request and its answer, of which this is to be the transport
    """

    def __init__(self, cycle: RequestResponseCycle):
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._head: bytes | None = None
        self._passed_on = False

    def write(self, data: bytes) -> None:
        """Writes, or keeps what is the head."""
        if not self._cycle.response_started or self._passed_on:  # "100 Continue" comes before an answer
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._passed_on = True
            self._transport.write(self._head + data)

    def close(self) -> None:
        """After what was written."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it was closed, or the client has gone."""
        return self._transport.is_closing()
