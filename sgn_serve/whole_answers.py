"""Heads are written together with their bodies: of a server that dies there is no answer, or a whole one."""

import asyncio

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


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
