"""SIGTERM: what was accepted is answered, what comes later is refused, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from benchmarks.service.server import end, free_port
from tests.sgn_serve.hammer import RED, Hammer
from tests.sgn_serve.server import ROOT, START_LIMIT_SECONDS, running_server, serve_command, serve_environment
from tests.sgn_serve.tiny_graph import save_tiny_graph

DRAIN_SECONDS = 1.5
MOMENT = 0.2
"""Longer than a request takes, in seconds."""
ONE, TWO = (pytest.param(count, marks=pytest.mark.slow) for count in (1, 2))
"""Numbers of workers that are tried before a release alone: each test tries the other number every time."""
READY = ("/readyz", "/v2/health/ready", "/v2/models/self-gradient-network/ready")


def test_make_serve_serves_this_machine_only(project_root):
    def command(*options):
        return subprocess.run(
            ["make", "-n", "serve", *options], cwd=project_root, capture_output=True, text=True
        ).stdout

    assert "-m sgn_serve --host 127.0.0.1 " in command()
    assert "-m sgn_serve --host 0.0.0.0 " in command("HOST=0.0.0.0")


def begin_upload(url: str) -> tuple[socket.socket, bytes]:
    """A request whose body is half there, and the other half."""
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n' + RED + b"\r\n--edge--\r\n"
    )
    head = (
        f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(head.encode() + body[:100])
    return connection, body[100:]


def wait_for_workers(url: str, workers: int) -> None:
    """Waits until so many are ready, by the count that they share."""
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while f"sgn_worker_starts_total {workers}.0" not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < deadline, f"no {workers} workers within {START_LIMIT_SECONDS} s"
        time.sleep(0.1)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while chunk := connection.recv(10_000):
        answer += chunk
    return answer


@pytest.mark.parametrize("workers", [1, TWO])
def test_nothing_accepted_is_lost_and_nothing_new_is_taken(tmp_path, workers):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings = {
        "SGN_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "BENTOML_CONFIG_OPTIONS": f"services.RobustClassifier.workers={workers}",
    }
    with running_server(tmp_path, SGN_MODEL=str(model), **settings) as server:
        supervisor = psutil.Process(server.pid)
        wait_for_workers(server.url, workers)
        processes = [supervisor, *supervisor.children(recursive=True)]
        assert len(supervisor.children()) == workers
        assert server.addresses() == {f"127.0.0.1:{server.port}"}, (
            "what `bentoml serve` does unless it is told otherwise"
        )
        upload, rest = begin_upload(server.url)
        with ExitStack() as stack, upload, Hammer(server.url) as hammer, httpx.Client(base_url=server.url) as late:
            kept = {path: stack.enter_context(httpx.Client(base_url=server.url)) for path in READY}
            assert {client.get(path).status_code for path, client in kept.items()} == {200}
            hammer.wait_for(20)
            os.kill(server.pid, signal.SIGTERM)
            ended = time.monotonic()
            time.sleep(DRAIN_SECONDS / 2)
            for path, client in kept.items():
                told = client.get(path)
                error = told.json() if path.startswith("/v2") else told.json()["error"]
                assert (told.status_code, error["code"]) == (503, "not_ready"), path
                assert told.headers["connection"] == "close"
            assert late.get("/readyz").status_code == 503
            refused = late.post("/classify", files={"image": RED})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert refused.headers["retry-after"] == "1"
            time.sleep(DRAIN_SECONDS)
            with pytest.raises(httpx.ConnectError):  # refused, not left waiting until the upload is done
                late.get("/livez")
            upload.sendall(rest)
            answer = read_all(upload)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"label":"red"' in answer
        before = [answer.status for answer in hammer.answers if answer.asked < ended]
        assert set(before) == {200}, hammer.statuses()
        # Only when the port closes may a connection that is just made, or a request on its way, come to nothing.
        drained = ended + DRAIN_SECONDS
        within = {answer.status for answer in hammer.answers if answer.asked < drained - MOMENT}
        assert within == {200, 503}, hammer.statuses()
        afterwards = {answer.status for answer in hammer.answers if answer.asked >= drained - MOMENT}
        assert afterwards <= {200, 503, "ConnectError", "ReadError", "RemoteProtocolError"}
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == []
        assert "Traceback" not in server.log.read_text()


def test_a_worker_does_not_outlive_its_supervisor(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    with running_server(tmp_path, SGN_MODEL=str(model)) as server:
        supervisor = psutil.Process(server.pid)
        workers = supervisor.children(recursive=True)
        assert workers
        supervisor.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == [], "it would hold the port for ever"


@pytest.mark.parametrize("workers", [ONE, 2])
def test_a_worker_that_still_starts_does_not_outlive_its_supervisor_either(tmp_path, workers):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    options = f"services.RobustClassifier.workers={workers}"
    environment = serve_environment(tmp_path, SGN_MODEL=str(model), BENTOML_CONFIG_OPTIONS=options)
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(serve_command(free_port()), cwd=ROOT, env=environment, stdout=output, stderr=output)
    started: list[psutil.Process] = []
    try:
        supervisor = psutil.Process(server.pid)
        while "the page to try the network on" not in log.read_text():
            assert server.poll() is None, log.read_text()
            time.sleep(0.01)
        started = supervisor.children(recursive=True)
        assert len(started) >= workers
        supervisor.kill()
        _, alive = psutil.wait_procs(started, timeout=60)
        assert alive == [], log.read_text()
    finally:
        end(server)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
