"""Send files to a server over connections that are kept, and take the time of each answer."""

import http.client
import json
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

FORM = "multipart/form-data; boundary=edge-of-a-hostile-file"
ANSWER_SECONDS = 120.0
"""Timeout of an answer."""
BUSY = 503
_MOST_TRIES = 40


@dataclass(frozen=True)
class Request:
    """A request that is sent.

    Attributes:
        path: The route.
        content_type: The body's type.
        body: The body.
    """

    path: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    """An answer that came back.

    Attributes:
        status: The HTTP status. 0 where no answer came.
        code: The error's code. Empty without an error.
        message: The error's sentence.
        began: When the request was sent, by time.monotonic.
        seconds: How long the answer took.
        refusals: How often the server said before it that it was busy.
    """

    status: int
    code: str
    message: str
    began: float
    seconds: float
    refusals: int = 0

    @property
    def fault(self) -> bool:
        """Whether it is the server's fault. Being busy is none."""
        return self.status == 0 or (self.status >= 500 and self.status != BUSY)

    @property
    def kind(self) -> str:
        """Status, code and sentence without numbers: a new one tells of another branch in the server."""
        return f"{self.status} {self.code} {re.sub(r'[0-9]+|0x[0-9a-f]+', '#', self.message)[:120]}".strip()


def one_picture(data: bytes) -> Request:
    """Return the request for one picture."""
    return Request("/classify", FORM, _form("image", [data]))


def many_pictures(files: Sequence[bytes]) -> Request:
    """Return one request with several pictures."""
    return Request("/classify_batch", FORM, _form("images", files))


def _form(name: str, files: Sequence[bytes]) -> bytes:
    edge = b"--" + FORM.partition("boundary=")[2].encode()
    head = f'\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
    return b"".join(part for data in files for part in (edge, head, data, b"\r\n")) + edge + b"--\r\n"


class Client:
    """A connection to a server, opened anew where it was closed.

    Args:
        host: Where the server listens.
        port: The TCP port.
        token: Its API token, if it wants one.
    """

    def __init__(self, host: str, port: int, token: str = ""):
        self._connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def send(self, request: Request) -> Answer:
        """Send a request once and return its answer."""
        began = time.monotonic()
        try:
            status, body = self._send(request)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Answer(0, "no_answer", type(error).__name__, began, time.monotonic() - began)
        seconds = time.monotonic() - began
        code, message = ("", "") if status == 200 else _told(body)
        return Answer(status, code, message, began, seconds)

    def insist(self, request: Request) -> Answer:
        """Send a request until the server is not busy, and return its answer."""
        refusals = 0
        while (answer := self.send(request)).status == BUSY and refusals < _MOST_TRIES:
            refusals += 1
            time.sleep(0.25)
        return replace(answer, refusals=refusals)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _send(self, request: Request) -> tuple[int, bytes]:
        headers = {"Content-Type": request.content_type, **self._headers}
        kept = self._connection.sock is not None
        try:
            self._connection.request("POST", request.path, request.body, headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            self._connection.close()
            if not kept:
                raise
            # The server had closed the kept connection: nothing of this request was answered.
            self._connection.request("POST", request.path, request.body, headers)
            response = self._connection.getresponse()
        return response.status, response.read()


def _told(body: bytes) -> tuple[str, str]:
    try:
        content = json.loads(body)
        error = content["error"]
        if isinstance(error, str):  # the Open Inference Protocol's form
            return str(content.get("code", "")), error
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "", body[:200].decode("latin-1")


class Senders:
    """Send requests over several connections at the same time.

    Args:
        host: Where the server listens.
        port: The TCP port.
        count: The number of connections.
        token: The server's API token, if it wants one.
    """

    def __init__(self, host: str, port: int, count: int, token: str = ""):
        self._pool = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._clients: list[Client] = []
        self._host, self._port, self._token = host, port, token

    def send_all(self, requests: Sequence[Request], insist: bool = True) -> list[Answer]:
        """Return the answers in the requests' order."""

        def send(request: Request) -> Answer:
            client: Client | None = getattr(self._own, "client", None)
            if client is None:
                client = self._own.client = Client(self._host, self._port, self._token)
                self._clients.append(client)
            return client.insist(request) if insist else client.send(request)

        return list(self._pool.map(send, requests))

    def close(self) -> None:
        """End the threads and close their connections."""
        for client in self._clients:
            client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
