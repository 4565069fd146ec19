"""Clients that are slow, endless, deaf, or gone: they hold up nobody, and are cut off."""

import re
import resource
import select
import socket
import struct
import time
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest

from sgn_serve.http.body_limits import RECEIVED_BYTES
from sgn_serve.http.connections import MAX_HEADERS, MAX_REQUESTS, OTHER_FILES
from tests.sgn_serve.conftest import RECEIVE_SECONDS
from tests.sgn_serve.hammer import RED, Hammer
from tests.sgn_serve.server import read_answer, running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

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
LARGEST = "/static_content/swagger-ui-bundle.js"
"""1.4 MB: a few of these are more than sockets hold."""


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def drip(connections):
    """Sends a byte on each connection every half second; when each was closed by the server, and after what."""
    closed: dict[socket.socket, Any] = {}
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


REFUSED = {
    "no HTTP": (b"hello\r\n\r\n", 400, "bad_http"),
    "no length": (b"POST /classify HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "bad_http"),
    "a damaged body": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400, "bad_http"),
    "a large header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431, "head_too_large"),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431, "head_too_large"),
    "many trailers": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:b\r\n" * MAX_HEADERS,
        431,
        "head_too_large",
    ),
    "half a head": (b"GET / HTTP/1.1\r\n", 408, "too_slow_request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_in_the_form_of_all_errors(client, server, name):
    def counted():
        found = re.search(rf'^sgn_errors_total{{code="{code}"}} (.*)', client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    data, status, code = REFUSED[name]
    before = counted()
    with connect(server) as connection:
        connection.sendall(data)
        answered, headers, told = read_answer(connection)
    assert (answered, told["error"]["code"]) == (status, code)
    assert list(told["error"]) == ["code", "message", "request_id"]
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == told["error"]["request_id"]
    assert counted() == before + 1
    assert f'"{told["error"]["request_id"]}"' in server.log.read_text(), "the log tells of it"
    assert "Traceback" not in server.log.read_text()


def test_as_many_headers_as_clients_send_are_taken(client):
    assert client.get("/livez", headers={f"x-{number}": "1" for number in range(MAX_HEADERS // 2)}).is_success
    assert client.get("/livez", headers={"cookie": "a" * 20_000}).is_success


def test_a_length_of_many_digits(server):
    with connect(server) as connection:
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: " + b"0" * 5000 + b"\r\n\r\n")
        status, _, told = read_answer(connection)
    assert (status, told["error"]["code"]) == (400, "no_image")


def test_requests_sent_all_at_once_take_turns_and_too_many_end_the_connection(client, server):
    ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(ask * (MAX_REQUESTS - 1) + ask.replace(b"Host", b"Connection: close\r\nHost"))
        answer = b""
        while chunk := connection.recv(100_000):
            answer += chunk
    assert answer.count(b"HTTP/1.1 200 ") == MAX_REQUESTS
    with connect(server) as connection:
        connection.sendall(ask * (MAX_REQUESTS + 1))
        answer = b""
        while chunk := connection.recv(100_000):
            answer += chunk
    assert answer.count(b"HTTP/1.1 200 ") == MAX_REQUESTS, "the first ones are answered"
    with ExitStack() as stack:
        many = [stack.enter_context(connect(server)) for _ in range(10)]
        started = time.monotonic()
        for connection in many:
            send_quietly(connection, ask * 10_000)
        assert client.get("/livez").is_success
        assert time.monotonic() - started < RECEIVE_SECONDS, "it is not busy with them"
        for connection in many:
            with suppress(ConnectionResetError):
                while connection.recv(100_000):
                    pass


def test_large_bodies_that_do_not_come_are_limited_and_keep_no_small_picture_out(client, server):
    body = BODY[:100] + b"x" * 95_000
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(250)]
        started = time.monotonic()
        for connection in connections:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1000) + body)
        refused: list[socket.socket] = []
        while len(connections) - len(refused) > RECEIVED_BYTES // len(body):
            assert time.monotonic() < started + RECEIVE_SECONDS, f"{len(refused)} are refused"
            refused, _, _ = select.select(connections, [], [], 0)
            time.sleep(0.05)
        assert len(refused) < len(connections) / 2 + 30, "no more than there is no room for"
        assert client.post("/classify", files={"image": RED}).json()["label"] == "red"
        status, headers, told = read_answer(refused[0])
        assert (status, told["error"]["code"]) == (503, "overloaded")
        assert headers["retry-after"] == "1"
    large = b"x" * 95_000
    deadline = time.monotonic() + 10
    while client.post("/classify", files={"image": large}).status_code != 415:
        assert time.monotonic() < deadline, "the room is free again"
        time.sleep(0.05)


def test_an_answer_that_nobody_reads_is_given_up(server):
    (worker,) = psutil.Process(server.pid).children()
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = connection.getsockname()
        ask = f"GET {LARGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        connection.sendall(ask)
        assert connection.recv(1) == b"H", "it is being answered"
        assert held(worker, peer)
        send_quietly(connection, ask * (MAX_REQUESTS - 1))
        deadline = time.monotonic() + 6 * RECEIVE_SECONDS
        while held(worker, peer):
            assert time.monotonic() < deadline, "the server still holds the connection and the answer"
            time.sleep(0.2)


def test_heads_come_together_with_their_bodies(server):
    """A server that is killed then leaves no answer that a proxy has passed on in part."""
    classify = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    asks = [classify] * 20 + [b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n"]
    with connect(server) as connection:
        for ask in asks:
            connection.sendall(ask)
            head, _, body = first_read(connection).partition(b"\r\n\r\n")
            (length,) = re.findall(rb"content-length: (\d+)", head)
            assert int(length) == len(body) > 0
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = connection.recv(100_000).partition(b"\r\n\r\n")
        assert (head[:9], body) == (b"HTTP/1.1 ", b""), "this one has no body to wait for"
        connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert connection.recv(100_000) == b"HTTP/1.1 100 Continue\r\n\r\n", "nor has this"
        connection.sendall(BODY)
        assert connection.recv(100_000).startswith(b"HTTP/1.1 200 OK")


def first_read(connection):
    """Return the bytes that arrive first. A sleeping thread would wake too late and see more of them."""
    connection.setblocking(False)
    try:
        while True:
            with suppress(BlockingIOError):
                return connection.recv(100_000)
    finally:
        connection.setblocking(True)


def held(worker, peer):
    """Whether a process has a connection with that address."""
    return any(found.raddr and found.raddr[:2] == peer for found in worker.net_connections())


def send_quietly(connection, data):
    with suppress(OSError):
        connection.sendall(data)


@pytest.mark.parametrize(
    "sent",
    [10, len(HEAD) + 40, len(HEAD) + 200, None],
    ids=["in the head", "before the body", "in the body", "after it"],
)
def test_clients_that_hang_up(client, server, sent):
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    for _ in range(20):
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets it in the end
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


@pytest.mark.thorough
def test_no_more_connections_than_files_that_may_be_open(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        running = running_server(tmp_path, SGN_MODEL=str(save_tiny_graph(tmp_path / "tiny.onnx")))
        server = running.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with ExitStack() as stack:
        stack.push(running.__exit__)
        allowed = files - OTHER_FILES
        (line,) = [line for line in server.log.read_text().splitlines() if "SGN_MAX_CONNECTIONS" in line]
        assert f"so few files open that {allowed} connections" in line
        assert "ulimit -n 528" in line
        connections = [stack.enter_context(connect(server)) for _ in range(files + 50)]
        for connection in connections:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY))
        connections[0].sendall(BODY)
        assert connections[0].recv(100_000).startswith(b"HTTP/1.1 200 OK"), "those that it has are answered"
        status, _, told = read_answer(connections[allowed + 10])
        assert (status, told["error"]["code"]) == (503, "too_many_connections")
        assert "Too many open files" not in server.log.read_text()
        (worker,) = psutil.Process(server.pid).children()
        assert worker.num_fds() < files
