"""A body is never taken for a request: whatever the path, the method, the upgrade asked for and the framing."""

import itertools
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from sgn_serve.http.connections import LINGER_BYTES, LINGER_REFUSED_BYTES, LINGER_SECONDS, MAX_LINGERING
from tests.sgn_serve.http.test_connections import BODY, HEAD, connect
from tests.sgn_serve.server import read_answer

INNER = b"GET /smuggled HTTP/1.1\r\nHost: inner\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
INFER = "/v2/models/self-gradient-network/infer"
PATHS = (
    "/classify",
    "/classify_batch",
    "/explain",
    "/preprocess",
    INFER,
    "/v2/models/other/infer",
    "/v2",
    "/v2/health/ready",
    "/livez",
    "/readyz",
    "/metrics",
    "/model",
    "/docs.json",
    "/",
    "/ui",
    "/ui/",
    "/ui/static/answers.js",
    "/admin/reload",
    "/nothing",
    "http://x/livez",
    "*",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "CONNECT", "PRI", "MOVE")
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\n"
WEBSOCKET = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
)
WISHES = {
    "nothing": b"",
    "h2c": H2C,
    "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "websocket": WEBSOCKET,
    "upgrade without connection": b"Upgrade: h2c\r\n",
    "connection without upgrade": b"Connection: upgrade\r\n",
    "twice": b"Connection: close\r\nconnection: UPGRADE\r\nUpgrade: h2c\r\nUpgrade: websocket, foo/2\r\n",
    "an empty one": b"Connection: Upgrade\r\nUpgrade:\r\n",
    "100-continue": b"Expect: 100-continue\r\n",
    "100-continue and h2c": b"Expect: 100-continue\r\n" + H2C,
    "another expectation": b"Expect: 200-ok\r\n",
    "a form": b"Content-Type: multipart/form-data; boundary=edge\r\n",
    "a tensor": b"Content-Type: application/json\r\nInference-Header-Content-Length: 3\r\n",
    "a packed body": b"Content-Encoding: gzip\r\n",
    "an unknown packing": b"Content-Encoding: br\r\n" + H2C,
}
LENGTH = b"Content-Length: %d\r\n" % len(INNER)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)
FRAMINGS = {
    "length": (LENGTH, INNER),
    "length with zeros": (b"Content-Length: 000%d\r\n" % len(INNER), INNER),
    "two lengths": (LENGTH + b"Content-Length: 0\r\n", INNER),
    "a list of lengths": (b"Content-Length: %d, 0\r\n" % len(INNER), INNER),
    "a length with a sign": (b"Content-Length: +%d\r\n" % len(INNER), INNER),
    "chunks": (b"Transfer-Encoding: chunked\r\n", CHUNKS),
    "chunks in capitals": (b"TRANSFER-ENCODING: Chunked\r\n", CHUNKS),
    "length and chunks": (LENGTH + b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + INNER),
    "chunks and length": (b"Transfer-Encoding: chunked\r\n" + LENGTH, b"0\r\n\r\n" + INNER),
    "an unknown coding": (b"Transfer-Encoding: xchunked\r\n", INNER),
    "identity": (b"Transfer-Encoding: identity\r\n", INNER),
    "chunked is not the last": (b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "chunked twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKS),
    "a space before the colon": (b"Transfer-Encoding : chunked\r\n" + LENGTH, INNER),
    "a folded header": (b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH, INNER),
    "a tab": (b"Transfer-Encoding:\tchunked\r\n", CHUNKS),
    "bare line feeds": (b"X: y\n" + LENGTH, INNER),
    "a chunk's extension": (b"Transfer-Encoding: chunked\r\n", b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)),
    "chunks with a trailer": (b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"Upgrade: h2c\r\n\r\n"),
}
USUAL = ("length", "chunks")


def cases(path):
    """Everything for the busiest paths, and what matters most for all of them."""
    if path in ("/classify", INFER, "/livez", "/nothing"):
        yield from itertools.product(("GET", "POST"), WISHES, FRAMINGS)
    yield from itertools.product(METHODS, WISHES, USUAL)


def talk(server, *parts):
    """All that comes until the server closes the connection."""
    answer = b""
    with connect(server) as connection:
        with suppress(OSError):
            for number, part in enumerate(parts):
                if number:
                    time.sleep(0.02)
                connection.sendall(part)
        with suppress(ConnectionResetError):
            while chunk := connection.recv(100_000):
                answer += chunk
    return answer


@pytest.mark.parametrize("path", PATHS)
def test_no_body_is_run_as_a_request(server, path):
    def run(case):
        method, wish, framing = case
        lines, body = FRAMINGS[framing]
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + WISHES[wish] + lines + b"\r\n"
        return [talk(server, head + body + LAST), talk(server, head, body + LAST)]

    listed = list(cases(path))
    with ThreadPoolExecutor(8) as pool:
        for case, answers in zip(listed, pool.map(run, listed), strict=True):
            for answer in answers:
                assert b"smuggled" not in answer, case
                assert answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").count(b"HTTP/1.1 ") <= 2, case
    log = server.log.read_text()
    assert "smuggled" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("wish", ["h2c", "TLS", "twice", "100-continue and h2c"])
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_an_upgrade_is_ignored_and_the_body_is_read(server, wish, pieces):
    request = HEAD + b"Connection: close\r\n" + WISHES[wish] + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    size = -(-len(request) // pieces)
    answer = talk(server, *(request[at : at + size] for at in range(0, len(request), size)))
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK"), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["label"] == "red"


def test_a_connection_goes_on_after_an_upgrade_that_was_ignored(server):
    classify = HEAD + H2C + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    answer = talk(server, classify * 3 + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.count(b'"label":"red"') > 3


@pytest.mark.parametrize("path", ["/classify", "/v2", "/livez", "/nothing"])
def test_the_handshake_of_a_websocket_gets_an_error_in_the_service_s_form(server, path):
    with connect(server) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() + WEBSOCKET + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        status, headers, told = read_answer(connection)
    assert (status, told.get("code") or told["error"]["code"]) == (400, "no_websocket")
    assert headers["content-type"] == "application/json"


def test_a_tunnel_is_refused(server):
    with connect(server) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n" + INNER)
        status, headers, told = read_answer(connection)
    assert (status, told["error"]["code"], headers["connection"]) == (405, "method_not_allowed", "close")


def test_a_body_that_is_not_read_closes_its_connection(server):
    with connect(server) as connection:
        connection.sendall(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        started = time.monotonic()
        _, headers, _ = read_answer(connection)
        assert headers["connection"] == "close"
        assert time.monotonic() - started < LINGER_SECONDS, "the answer has ended, though the connection is still there"


def test_too_large_a_body_that_is_sent_first_gets_its_answer(server):
    """A client that reads only after it has sent everything: closed at once, the connection would be reset."""
    for framing in (b"Content-Length: 20000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1312d00\r\n"):
        with connect(server) as connection:
            connection.sendall(HEAD + framing + BODY[:100])
            for _ in range(200):
                connection.sendall(b"x" * 100_000)
            status, headers, told = read_answer(connection)
        assert (status, told["error"]["code"], headers["connection"]) == (413, "body_too_large", "close")


SOCKET_BUFFERS = 16 << 20
"""More bytes than lie between two ends that send and read nothing."""
ENDLESS = {
    # It begins as a form does. Otherwise it is also damaged, which a slow server may see first.
    "a large body": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + BODY[:100], b"413", LINGER_BYTES),
    "a damaged request": (b"no request\r\n\r\n", b"400", LINGER_REFUSED_BYTES),
    "a form without a boundary": (
        HEAD.replace(b"; boundary=edge", b"") + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
        b"400",
        LINGER_BYTES,
    ),
    "a body that is not read": (
        b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
        b"404",
        LINGER_BYTES,
    ),
}


def pour(server, name):
    """Send without end, and return how many bytes have gone before the connection was cut off."""
    begin, status, allowed = ENDLESS[name]
    chunk = bytes(1 << 16)
    with connect(server) as connection:
        connection.settimeout(60)  # nothing may be read any more, and the connection stay open
        connection.sendall(begin + 2 * chunk)
        assert connection.recv(1000).startswith(b"HTTP/1.1 " + status), name
        sent = 0
        with suppress(ConnectionError):
            while sent <= allowed + SOCKET_BUFFERS:
                sent += connection.send(chunk)
        return sent


@pytest.mark.parametrize("name", ENDLESS)
def test_a_client_that_sends_on_without_end_is_cut_off(server, name):
    assert pour(server, name) <= ENDLESS[name][2] + SOCKET_BUFFERS


def test_many_clients_that_send_on_without_end_are_all_cut_off(server, client):
    names = list(itertools.islice(itertools.cycle(ENDLESS), MAX_LINGERING + len(ENDLESS)))
    with ThreadPoolExecutor(len(names)) as pool:
        sent = pool.map(partial(pour, server), names)
        assert client.get("/livez").status_code == 200, "beside them"
        for name, size in zip(names, sent, strict=True):
            assert size <= ENDLESS[name][2] + SOCKET_BUFFERS, name


def test_a_client_that_closes_its_side_is_answered(server):
    classify = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with connect(server) as connection:
        connection.sendall(classify)
        connection.shutdown(socket.SHUT_WR)
        status, _, told = read_answer(connection)
    assert (status, told["label"]) == (200, "red")
    with connect(server) as connection:
        connection.sendall(classify * 3 + classify[:-10])
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(100_000):
            answer += chunk
    assert answer.count(b"HTTP/1.1 200 OK") == 3, "the fourth is not whole"


def test_what_is_damaged_takes_no_answer_from_those_before_it(server):
    classify = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    for damage in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n"):
        answer = talk(server, classify * 3 + damage)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.count(b"HTTP/1.1 ") == 3
