"""Requests and connections are freed when they end, and not by a garbage collection that may come minutes later."""

import asyncio
import gc
import weakref

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from sgn_serve.http.connections import ConnectionLimits
from sgn_serve.http.uvicorn.connection import Connection

BODY = b"x" * 300_000
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


async def read_all(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await answer(send)


async def refuse(scope, receive, send):
    await receive()
    await answer(send)


async def fail(scope, receive, send):
    raise ValueError("a fault")


async def answer(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def converse(port, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def leave_behind(app, sent):
    """Return what the server answers, and the requests and connections that are left when the connection has ended."""
    left: list[weakref.ref] = []

    class Watched(Connection):
        def on_headers_complete(self):
            super().on_headers_complete()
            left.extend((weakref.ref(self), weakref.ref(self.cycle)))

    config = Config(app, log_level="critical")
    config.load()
    state = ServerState()
    limits = ConnectionLimits(connections=4, seconds=10, log=False)
    loop = asyncio.get_running_loop()

    def connected():
        return Watched(config=config, server_state=state, app_state={}, limits=limits, ending=lambda: False)

    server = await loop.create_server(connected, "127.0.0.1", 0)
    try:
        received = await asyncio.wait_for(converse(server.sockets[0].getsockname()[1], sent), 30)
        for _ in range(200):
            if not state.connections and not state.tasks:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
    finally:
        server.close()
    assert left, "there was a request"
    return received, [one() for one in left if one() is not None]


@pytest.mark.parametrize(
    ("app", "sent", "begins"),
    [
        (read_all, HEAD + BODY, b"HTTP/1.1 200"),
        (read_all, 2 * (HEAD + BODY), b"HTTP/1.1 200"),
        (refuse, HEAD + BODY, b"HTTP/1.1 200"),
        (read_all, HEAD + BODY[:100_000], b""),
        (fail, HEAD + BODY, b"HTTP/1.1 500"),
    ],
    ids=["answered", "two at once", "refused while it arrives", "cut off", "a fault of the service"],
)
def test_nothing_is_left_when_a_connection_has_ended(app, sent, begins):
    gc.collect()
    gc.disable()
    try:
        received, left = asyncio.run(leave_behind(app, sent))
    finally:
        gc.enable()
    assert received.startswith(begins)
    assert left == []
