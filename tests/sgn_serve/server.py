"""Start what tests talk to: a real server process, as `bentoml serve` starts it, or the application without one."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from starlette.testclient import TestClient

from benchmarks.service.server import end, free_port, service_environment
from sgn_serve.app import create_app
from sgn_serve.settings import Settings

ROOT = Path(__file__).parents[2]
# Enough on a machine with ten times more to do than cores. A server that ends while it starts is told at once.
START_LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Server:
    """url: where it answers; log: what it has printed so far; pid: of its supervisor"""

    url: str
    log: Path
    pid: int

    def addresses(self) -> set[str]:
        """Where any of its processes listens, as host:port."""
        supervisor = psutil.Process(self.pid)
        found = set()
        for process in (supervisor, *supervisor.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a decoder may have ended since
                found |= {
                    f"{entry.laddr.ip}:{entry.laddr.port}"
                    for entry in process.net_connections("tcp")
                    if entry.status == psutil.CONN_LISTEN
                }
        return found

    @property
    def port(self) -> str:
        """Where it answers."""
        return self.url.rsplit(":", 1)[1]


@contextmanager
def running_server(home: Path, **settings: str) -> Iterator[Server]:
    """Runs `bentoml serve` from the project's root on a free port until the block ends.

    home:     an empty folder of its own: two servers that share one wipe each other's metrics
    settings: SGN_* environment variables
    """
    port = free_port()
    log = home / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            serve_command(port), cwd=ROOT, env=serve_environment(home, **settings), stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield Server(url, log, process.pid)
    finally:
        end(process)


@contextmanager
def application_client(settings: Settings, address: str = "192.0.2.1", **options: Any) -> Iterator[TestClient]:
    """Runs the application in this process until the block ends, and yields a client of it.

    settings: see sgn_serve/settings.py; ONNX Runtime runs on the CPU whatever they say
    address:  where the client says it is
    options:  see create_app
    """
    app = create_app(settings.model_copy(update={"providers": ("cpu",)}), **options)
    with TestClient(app, client=(address, 1)) as client:
        yield client


@contextmanager
def application_server(**settings: str) -> Iterator[str]:
    """Runs the application behind uvicorn in a thread of this process until the block ends, and yields its address.

    It is enough for a browser. Connections, workers and signals are uvicorn's own: for those see running_server.

    settings: SGN_* environment variables
    """
    made = Settings.from_environment(settings).model_copy(update={"providers": ("cpu",)})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_app(made), log_config=None, ws="none", timeout_graceful_shutdown=20)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the application does not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def serve_command(port: int) -> list[str]:
    return [sys.executable, "-m", "bentoml", "serve", "--port", str(port)]


def serve_environment(home: Path, **settings: str) -> dict[str, str]:
    """This process's environment, with `settings` instead of the SGN_* variables that it may have."""
    return service_environment(home, **{"SGN_PROVIDERS": "cpu", "SGN_DRAIN_SECONDS": "0.1", **settings})


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready within {START_LIMIT_SECONDS} s:\n{log.read_text()}")


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """All that comes on a connection until it is closed, one answer: its status, headers and JSON."""
    answer = b""
    while chunk := connection.recv(10_000):
        answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, json.loads(body)
