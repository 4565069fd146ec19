"""uvicorn's HTTP connection with the limits that it lacks. It offers no hook for them, so its class is subclassed.

internals.py lists the undocumented parts that are overridden and used here.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from http import HTTPMethod
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.access_log import log_refused_connection
from sgn_serve.http.connections import (
    LINGER_BYTES,
    LINGER_REFUSED_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_LINGERING,
    MAX_REQUESTS,
    NEW_CONNECTION,
    PEER,
    WEBSOCKET,
    ConnectionLimits,
)
from sgn_serve.http.errors import STATUS, refusal_response
from sgn_serve.http.request_id import HEADER, assign_request_id
from sgn_serve.http.uvicorn.transports import DeferredHead, LingeringTransport

_RETRY_SECONDS = 1
_READ_BYTES = 64 * 1024
"""Bytes of a body that are read at once. By default asyncio reads four times as many: then a crowd of 390 connections
with large bodies took 53 MB, and takes 23 like this."""
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]*\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?", re.ASCII)
"""A Host header (RFC 9110, section 7.2): a name, an address or nothing, and a port or none. Source: RFC 3986, 3.2.2."""


class Connection(HttpToolsProtocol):
    """Limit what uvicorn's own connection leaves without a limit, and leave no byte to be taken for another request.

    uvicorn waits for ever for a head that has begun. It keeps all of a head or a trailer however long it is, and all
    requests that are sent at once however many they are. It also waits for ever for a client that does not read. Bodies
    are limited where they are read (sgn_serve/api/form.py, LimitBody).

    Where a request asks for an upgrade, as Java's HttpClient does by default (h2c), uvicorn's parser takes its body for
    the next request. Here the upgrade is ignored, as RFC 9110, section 7.8, allows.

    An answer reaches clients that still send: their connection is closed for writing, and what they send is thrown
    away for a while (RFC 9112, section 9.6). Clients that have closed their own side are answered too.

    Args:
        limits: See ConnectionLimits.
        ending: Returns whether the process was told to end.
    """

    transport: LingeringTransport  # type: ignore[assignment]

    def __init__(self, *args: Any, limits: ConnectionLimits, ending: Callable[[], bool], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._ending = ending
        self._new = False
        self._websocket = False
        self._unparsed = 0
        self._stopped = False
        self._to_discard = LINGER_BYTES
        self._open: list[RequestResponseCycle] = []
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, or refuse the connection where too many are open."""
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        lingering = LingeringTransport(transport, self.loop, self._limits.seconds, self._lingers)
        super().connection_made(lingering)  # type: ignore[arg-type]
        self._new = self._ending()
        if len(self.connections) > self._limits.connections:
            self._refuse("too_many_connections", "too many connections are open; try again in 1 s", _RETRY_SECONDS)
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, and refuse more than MAX_HEAD_BYTES of which the parser makes nothing."""
        if self._stopped or self.transport.is_closing():
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._unparsed += len(data)
        self._parse(data)
        if self._unparsed > MAX_HEAD_BYTES and not self._stopped:
            self._refuse_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether answers are due to a client that sends nothing more. A request that is cut off gets none."""
        if self.transport.is_closing():
            return False
        self.transport.can_linger = False
        return self._stop_reading()

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
            ValueError: The head is too large, not for one host, or of one request too many. This ends the parsing.
        """
        if self.parser.should_upgrade():
            return  # it comes again, without the upgrade
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse_head()
            raise ValueError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):  # RFC 9112, section 3.2
            self._refuse("bad_http", f"this request has {len(hosts)} Host headers; send one")
            raise ValueError(f"{len(hosts)} Host headers")
        if hosts and not _HOST.fullmatch(hosts[0]):
            self._refuse("bad_http", "this request's Host header is no name or address")
            raise ValueError("a Host header that is none")
        self._unparsed = 0
        self._open = [cycle for cycle in self._open if not cycle.response_complete]
        if len(self._open) >= MAX_REQUESTS:
            self._stop_reading()
            raise ValueError(f"more than {MAX_REQUESTS} requests at once")
        self._stop(self._head_timer)
        self._head_timer = None
        if self.parser.get_http_version() == "1.0":  # it knows no "100 Continue"
            self.expect_100_continue = False
        self.scope[NEW_CONNECTION] = self._new  # type: ignore[literal-required]
        self.scope[PEER] = self.client  # type: ignore[literal-required]
        self.scope[WEBSOCKET] = self._websocket  # type: ignore[literal-required]
        self._websocket = False
        self.scope["headers"] = list(self.headers)  # uvicorn would add the trailers to it while the request is read
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":
            self.cycle.transport = DeferredHead(self.cycle)  # type: ignore[assignment]
        self._open.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        if self.parser.should_upgrade():
            return  # the parser takes the head for all of it
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
        self.transport.note_lost()
        for cycle in self._open:  # uvicorn itself tells only the latest, where a client sends several at once
            _give_up(cycle)
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        super()._start_asgi_task(cycle, partial(_answer, cycle, app))

    def _parse(self, data: bytes) -> None:
        while data and not self._stopped:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except HttpParserError:
                if not self._stopped:
                    self.send_400_response("")
                return
            else:
                return

    def _without_upgrade(self) -> bytes:
        """Return the head that was just parsed without its wish for an upgrade, and make a parser for it.

        The parser skips the body of such a request, and cannot be told otherwise. The new one sees the same headers, so
        that it and no other code decides where the body ends. Nothing is returned where the request is refused.
        """
        method = self.parser.get_method()
        if method == HTTPMethod.CONNECT.encode():
            self._refuse("method_not_allowed", "this server does not take CONNECT: it is no proxy")
            return b""
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        wanted: list[bytes] = []
        for name, value in self.headers:
            left = value
            if name == b"upgrade":
                wanted += _tokens(value)
                continue
            if name == b"connection":
                left = b", ".join(token for token in _tokens(value) if token != b"upgrade")
                if not left:
                    continue
            lines.append(name + b": " + left)
        if any(b"\r" in line or b"\n" in line for line in lines):
            self.send_400_response("")
            return b""
        self._websocket = method == HTTPMethod.GET.encode() and b"websocket" in wanted
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # uvicorn's own parser is set so
        return b"\r\n".join([*lines, b"", b""])

    def _stop_reading(self) -> bool:
        """Parse nothing more, and close the connection after the answers to what has arrived to its end.

        Returns:
            Whether there are such answers. Without them the caller closes the connection.
        """
        self._stopped = True
        self._stop(self._head_timer)
        due = [cycle for cycle in self._open if not cycle.response_complete]
        if due and due[-1].more_body:
            dropped = due.pop()
            if due:  # it is not being answered yet
                self.pipeline = type(self.pipeline)(item for item in self.pipeline if item[0] is not dropped)
        if due:
            due[-1].keep_alive = False
        return bool(due)

    def _discard(self, size: int) -> None:
        self._to_discard -= size
        if self._to_discard >= 0:
            self.transport.go_on_lingering()
        elif self.transport.is_closing():
            self.transport.close()
        else:
            self.transport.pause_reading()  # answers are due

    def _lingers(self) -> bool:
        """Return whether the client may still be sending something that is not read."""
        unread = self._stopped or bool(self.pipeline) or (self.cycle is not None and self.cycle.more_body)
        return unread and len(self.connections) <= self._limits.connections + MAX_LINGERING

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

        Where answers to earlier requests are due, this one would be taken for theirs: then they are given, and nothing
        else. Where a part of the same request's answer is written, only the connection is closed.
        """
        if self.transport.is_closing():
            return
        others_due = self._stop_reading()
        self._to_discard = LINGER_REFUSED_BYTES
        cut_off = [cycle for cycle in self._open if not cycle.response_complete and cycle.more_body]
        path = cut_off[-1].scope["path"] if cut_off else ""
        scope: Scope = {"path": path, "headers": [], "client": self.client}
        name = assign_request_id(scope)
        answer = refusal_response(scope, Refusal(code, message, retry_after))
        status = STATUS[code]
        if not others_due:
            if not any(cycle.response_started for cycle in cut_off):
                head = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
                head += [b"%s: %s" % header for header in answer.raw_headers]
                head += [b"%s: %s" % (HEADER.encode(), name.encode()), b"connection: close"]
                self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
            for cycle in cut_off:
                _give_up(cycle)
            self.transport.close()
        log_refused_connection(scope, status, self._limits.log)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def _give_up(cycle: RequestResponseCycle) -> None:
    """Tell a request that is not answered yet that its client has gone."""
    cycle.disconnected = not cycle.response_complete
    cycle.message_event.set()


async def _answer(cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, and close its connection where it has not arrived to its end by then."""

    async def closing(message: Message) -> None:
        if cycle.more_body and message["type"] == "http.response.start":
            cycle.keep_alive = False
        await send(message)

    try:
        await app(scope, receive, closing)
    finally:
        cycle.body = bytearray()  # a connection that lingers need not keep what was received of a refused body


def _tokens(value: bytes) -> list[bytes]:
    """Return the items of a header that is a list, in lower case."""
    return [token for token in (part.strip().lower() for part in value.split(b",")) if token]
