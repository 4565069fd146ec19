"""Clients that are slow, endless, deaf, or gone: they hold up nobody, and are cut off."""

import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.sgn_serve.conftest import RECEIVE_SECONDS
from tests.sgn_serve.hammer import RED, Hammer

HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
BODY = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n' + RED + b"\r\n--edge--\r\n"
SLOW = {
    "says nothing": (b"", b""),
    "a head a byte at a time": (b"", HEAD),
    "a second head a byte at a time": (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", HEAD),
    "line breaks for ever": (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 50),
    "a body a byte at a time": (HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY),
    "a body that nobody wants": (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"x" * 100),
}
CLIENTS_EACH = 15


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def drip(connections):
    """Sends a byte on each connection every half second; when each was closed by the server, and after what."""
    closed = {}
    started = time.monotonic()
    position = 0
    while len(closed) < len(connections) and time.monotonic() - started < 6 * RECEIVE_SECONDS:
        for connection, rest in connections.items():
            if connection in closed:
                continue
            try:
                connection.sendall(rest[position : position + 1])
                connection.setblocking(False)
                while True:
                    if not connection.recv(10_000):
                        closed[connection] = time.monotonic() - started
                        break
            except BlockingIOError:
                connection.setblocking(True)
            except OSError:
                closed[connection] = time.monotonic() - started
        position += 1
        time.sleep(0.5)
    return closed


def test_slow_clients_hold_up_nobody_and_are_cut_off(server):
    with ExitStack() as stack, Hammer(server.url, clients=2) as hammer:
        connections = {}
        kinds = {}
        for kind, (at_once, slowly) in SLOW.items():
            for _ in range(CLIENTS_EACH):
                connection = stack.enter_context(connect(server))
                connection.sendall(at_once)
                connections[connection] = slowly
                kinds[connection] = kind
        closed = drip(connections)
    left = {kinds[connection] for connection in connections.keys() - closed.keys()}
    assert left == set(), "still open"
    assert max(closed.values()) < 4 * RECEIVE_SECONDS
    assert hammer.statuses().keys() == {200}
    assert len(hammer.answers) > 20, "others were answered meanwhile"
    assert max(answer.answered - answer.asked for answer in hammer.answers) < RECEIVE_SECONDS
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        (b"GET /livez HTTP/1.1\r\nX: ", b"a" * 10_000),
        (b"GET /", b"a" * 10_000),
        (b"GET /livez HTTP/1.1\r\n", b"X: a\r\n" * 2000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n" * 2000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 10_000),
    ],
    ids=["header", "path", "headers", "trailers", "chunk extension"],
)
def test_heads_without_end_are_cut_off_before_they_take_memory(server, begin, endless):
    sent = 0
    with connect(server) as connection:
        connection.sendall(begin)
        with suppress(OSError):
            while sent < 50_000_000:
                connection.sendall(endless)
                sent += len(endless)
    assert sent < 10_000_000, "no more than the sockets hold"


def test_an_answer_that_nobody_reads_is_given_up(server):
    (worker,) = psutil.Process(server.pid).children()
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = connection.getsockname()
        ask = b"GET /docs.json HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(ask)
        assert connection.recv(1) == b"H", "it is being answered"
        assert held(worker, peer)
        sender = threading.Thread(target=send_quietly, args=(connection, ask * 2000), daemon=True)
        sender.start()
        deadline = time.monotonic() + 6 * RECEIVE_SECONDS
        while held(worker, peer):
            assert time.monotonic() < deadline, "the server still holds the connection and the answer"
            time.sleep(0.2)
        sender.join(30)
        assert not sender.is_alive()


def held(worker, peer):
    """Whether a process has a connection with that address."""
    return any(found.raddr and found.raddr[:2] == peer for found in worker.net_connections())


def send_quietly(connection, data):
    try:
        connection.sendall(data)
    except OSError:
        return


@pytest.mark.parametrize(
    "sent",
    [10, len(HEAD) + 40, len(HEAD) + 200, None],
    ids=["in the head", "before the body", "in the body", "after it"],
)
def test_clients_that_hang_up(client, server, sent):
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    for _ in range(20):
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # at once, with a reset
            connection.sendall(request[:sent])
    deadline = time.monotonic() + 30
    while not {"sgn_queue_pictures 0.0", "sgn_requests_in_flight 1.0"} <= set(client.get("/metrics").text.splitlines()):
        assert time.monotonic() < deadline, "their places in the queue are free again"
        time.sleep(0.1)
    assert client.post("/classify", files={"image": RED}).json()["label"] == "red"
    assert "Traceback" not in server.log.read_text()


def test_an_address_that_a_client_makes_up_is_not_believed(client, server):
    client.get("/model", headers={"x-forwarded-for": "203.0.113.77", "x-request-id": "made-up"})
    deadline = time.monotonic() + 10
    while not (lines := [line for line in server.log.read_text().splitlines() if '"made-up"' in line]):
        assert time.monotonic() < deadline, "the log has no such request"  # it is written after the answer is sent
        time.sleep(0.05)
    (line,) = lines
    assert '"client": "127.0.0.1"' in line
    assert "203.0.113.77" not in line
