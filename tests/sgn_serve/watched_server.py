"""A server with the bundled model, whose memory is watched while tests send what is hostile; stalling connections."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from PIL import Image

from release.hostile.observer import Observer, observing, tree
from release.hostile.server import Server as Observed
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import Server, running_server

MEMORY = 300e6
SMALL_EVERY_SECONDS = 0.2
"""Pause between two small pictures beside the others. Each costs 20 ms of a core; measurements ask far more often."""
STALLED = 195
"""Connections that stall; twice as many are nearly all that may be open."""


class Watched:
    """A server with the default limits but that of time, and the memory that all its processes used when idle."""

    def __init__(self, server: Server, client: httpx.Client, observer: Observer):
        self.server = server
        self.client = client
        self.observer = observer
        self.workers = [child.pid for child in psutil.Process(server.pid).children()]
        self.observer.window()
        self.idle = self.observer.window().peak

    def ask(self, picture: bytes, path: str = "/classify") -> httpx.Response:
        return self.client.post(path, files={"image": ("x", picture)})

    def insist(self, picture: bytes) -> int:
        """Send a picture again until there is room for it, and return its status."""
        while (response := self.ask(picture)).status_code == 503:
            assert response.json()["error"]["code"] in ("overloaded", "too_many_connections")
            # It is worked out from how long pictures take on this machine; nobody is to wait for more than a minute.
            assert 1 <= int(response.headers["retry-after"]) <= 60
            time.sleep(0.2)
        return self.check(response)

    def check(self, response: httpx.Response) -> int:
        """Check that a request was answered, or refused with an error in our form; return its status."""
        assert response.status_code in (200, 400, 413, 415, 422), response.text
        if response.status_code != 200:
            assert list(response.json()) == ["error"]
            assert list(response.json()["error"]) == ["code", "message", "request_id"]
        return response.status_code

    def check_alive(self) -> None:
        """Check that no worker died or logged a traceback, and that all processes kept within the memory allowed."""
        assert self.ask(encode(Image.fromarray(noise()))).status_code == 200
        assert "Traceback" not in self.server.log.read_text()
        for pid in self.workers:
            assert pid in tree(self.server.pid), "a worker died"
        window = self.observer.window()
        assert window.peak - self.idle < MEMORY / 1e6, f"{window.peak - self.idle:.0f} MB more than idle"
        assert window.small_failed == 0, "a small picture beside them was neither answered nor told to wait"


def ask_many(client: httpx.Client) -> int:
    """Send a request with the most pictures that are allowed, and return its status."""
    picture = encode(Image.fromarray(noise()))
    return client.post("/classify_batch", files=[("images", ("x", picture))] * 16).status_code


@contextmanager
def watched_server(home: Path, decode_seconds: str) -> Iterator[Watched]:
    """Run a server with the bundled model, because the memory of its largest batches counts too."""
    running = running_server(home, SGN_DECODE_SECONDS=decode_seconds, SGN_THREADS="1")
    with running as server, httpx.Client(base_url=server.url, timeout=120) as client:
        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(lambda _: ask_many(client), range(16))) == {200}
        observed = Observed("127.0.0.1", int(server.url.rsplit(":", 1)[1]), server.pid)
        with observing(observed, "", float("inf"), SMALL_EVERY_SECONDS) as observer:
            yield Watched(server, client, observer)


def stalling(watched: Watched, data: bytes) -> socket.socket:
    """Open a connection, send data and then send nothing more."""
    host, port = watched.server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    with suppress(OSError):  # refused before all is sent
        connection.sendall(data)
    return connection


def unfinished_body(file: int, files: int) -> bytes:
    """Return the start of a form of 2 megabytes: that many files of that size, small enough to be kept in memory."""
    part = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="x.png"\r\n\r\n'
    head = "POST /classify_batch HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    return head.encode() + (part + bytes(file) + b"\r\n") * files


UNFINISHED_HEAD = b"POST /classify HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"x" * 320) for n in range(95))
