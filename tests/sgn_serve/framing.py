"""Write random sequences of HTTP requests whose bodies hold further requests, and read their answers one by one."""

import http.client
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Any
from urllib.parse import urlsplit

EMBEDDED = "embedded"
"""How the id of a request begins that is only written in another one's body."""
METHODS = ("GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
POSTED = (
    "/classify",
    "/classify?top_k=1",
    "/classify_batch",
    "/explain",
    "/preprocess",
    "/v2/models/self-gradient-network/infer",
)
PATHS = (
    *POSTED,
    *("/livez", "/readyz", "/metrics", "/model", "/docs.json", "/ui", "/", "/v2", "/nothing", "/admin/reload"),
)
WISHES = (
    "Upgrade: h2c",
    "Upgrade: TLS/1.2",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Connection: keep-alive",
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: AAEAAEAAAAIAAAAB",
    "Sec-WebSocket-Key: x",
    "Expect: 100-continue",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Type: image/png",
    "Content-Type: application/json",
    "Content-Type: multipart/form-data; boundary=edge",
    "Content-Type: text/plain",
    "Inference-Header-Content-Length: 3",
    "TE: trailers",
    "Trailer: X-Request-ID",
)


@dataclass(frozen=True)
class Written:
    """A request as it is sent.

    Attributes:
        method: Its method, which tells how its answer is read.
        path: Its path.
        name: Its X-Request-ID.
        data: Its bytes.
    """

    method: str
    path: str
    name: str
    data: bytes


def sequences(seed: int, count: int, headers: Sequence[str] = ()) -> Iterator[list[Written]]:
    """Yield sequences of requests to send over one connection each. All are well-formed.

    Args:
        seed: Seed of them.
        count: How many.
        headers: Headers of the requests in the bodies, and of trailers: a token for instance.
    """
    random = Random(seed)
    for number in range(count):
        names = [f"sent-{seed}-{number}-{place}" for place in range(random.randint(1, 6))]
        address = f"198.18.{number // 250}.{number % 250}"  # a proxy's word, for a server that counts by client
        yield [_written(name, random, headers, address) for name in names]


def _written(name: str, random: Random, headers: Sequence[str], address: str) -> Written:
    usual = [("POST", path) for path in POSTED] + [("GET", path) for path in PATHS[len(POSTED) :]]
    method, path = random.choice(usual) if random.random() < 0.5 else (random.choice(METHODS), random.choice(PATHS))
    lines = [
        "Host: x",
        f"X-Request-ID: {name}",
        f"X-Forwarded-For: {address}",
        *random.sample(WISHES, random.choice((0, 0, 1, 2, 3))),
    ]
    inner = [f"GET /model HTTP/1.1\r\nHost: x\r\nX-Request-ID: {EMBEDDED}-{name}", *headers]
    embedded = ("\r\n".join(inner) + "\r\n\r\n").encode()
    before = random.choice(
        (b"", b"", b"\r\n", b"0\r\n\r\n", b"--edge--\r\n", b"{}", b"\x1f\x8b\x08\x00", b"\x89PNG\r\n\x1a\n")
    )
    body = before + embedded * random.choice((1, 1, 1, 3, 100))
    framing = random.choice(("none", "length", "length", "length", "chunks", "chunks"))
    if framing == "none":
        body = b""
    elif framing == "length":
        lines.append(f"{random.choice(('Content-Length', 'content-length'))}: {len(body)}")
    else:
        lines.append(random.choice(("Transfer-Encoding: chunked", "transfer-encoding: Chunked")))
        body = _chunks(body, random, [f"{header}\r\n".encode() for header in headers])
    random.shuffle(lines)
    head = f"{method} {path} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return Written(method, path, name, head.encode() + body)


def _chunks(body: bytes, random: Random, trailers: Sequence[bytes]) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        size = random.choice((1, 7, 100, 1000))
        piece = body[at : at + size]
        extension = random.choice((b"", b"", b";a=b", b";x"))
        pieces.append(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece))
        at += size
    trailer = random.choice((b"", b"", b"X-Request-ID: embedded-trailer\r\n", b"Upgrade: h2c\r\n", *trailers))
    return b"".join(pieces) + b"0\r\n" + trailer + b"\r\n"


class _Read:
    """All that a server has sent, for http.client to read answer by answer."""

    def __init__(self, data: bytes):
        self._file = BytesIO(data)
        self._file.close = lambda: None  # type: ignore[method-assign]
        self.left = len(data)

    def makefile(self, mode: str) -> BytesIO:
        return self._file

    def at_end(self) -> bool:
        return self._file.tell() == self.left


@dataclass(frozen=True)
class Told:
    """An answer: to which X-Request-ID, its status, and whether the connection is closed after it."""

    name: str
    status: int
    closing: bool


def exchange(url: str, requests: Sequence[Written], random: Random) -> list[Told]:
    """Send requests over one connection, in pieces, close our side, and return all answers.

    Raises:
        AssertionError: The bytes are not a whole number of answers.
    """
    address: Any = urlsplit(url)
    data = b"".join(request.data for request in requests)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        with suppress(OSError):  # the server may close before it has everything
            at = 0
            while at < len(data):
                size = random.choice((len(data), len(data), 1000, 50))
                connection.sendall(data[at : at + size])
                at += size
                if random.random() < 0.05:
                    time.sleep(0.01)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while piece := connection.recv(100_000):
                received += piece
    sent: Any = _Read(received)
    told = []
    for request in requests:
        if sent.at_end():
            break
        answer = http.client.HTTPResponse(sent, method=request.method)
        answer.begin()
        answer.read()
        told.append(Told(answer.headers["x-request-id"], answer.status, answer.headers.get("connection") == "close"))
    assert sent.at_end(), f"more was answered than asked: {received[-500:]!r}"
    return told


def answer_all(url: str, requests: Sequence[Written], random: Random) -> list[Told]:
    """Send requests, those that were not answered again over another connection, and return an answer to each.

    Raises:
        AssertionError: An answer belongs to none of them, they come in another order, or a connection was closed
            without saying so.
    """
    answers: list[Told] = []
    while len(answers) < len(requests):
        left = requests[len(answers) :]
        told = exchange(url, left, random)
        names = [answer.name for answer in told]
        assert names == [request.name for request in left[: len(told)]], f"{names} to {[one.data for one in left]}"
        assert told, f"no answer to {left[0].data!r}"
        assert len(told) == len(left) or told[-1].closing, f"closed without a word after {left[len(told) - 1].data!r}"
        answers += told
    return answers
