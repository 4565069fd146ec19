"""Workers that die: replaced within seconds, in a container too; but not where nothing can be served any more."""

import errno
import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from benchmarks.service.server import end, free_port
from sgn_serve.process.supervisor import Supervisor
from tests.sgn_serve.hammer import Hammer
from tests.sgn_serve.server import (
    ROOT,
    Server,
    running_server,
    serve_command,
    serve_environment,
    wait_until_ready,
)
from tests.sgn_serve.tiny_graph import save_tiny_graph

BACK_SECONDS = 10
SLOW_START_SECONDS = 7
"""A machine on which a worker alone takes longer to start says nothing about the supervisor."""


def start_seconds(log):
    """How long the first worker took to start, by the log."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    first, second = (next(line for line in lines if text in line) for text in ("Starting production", "hook: start"))

    def seconds(line):
        clock = line.split('"time": "')[1][11:26]
        hours, minutes, rest = clock.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(rest)

    return (seconds(second) - seconds(first)) % 86400


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        # The address is in test_shutdown too, and the rest is alike: two servers take the time of ten other tests.
        pytest.param({}, "127.0.0.1", marks=pytest.mark.slow, id="this machine"),
        pytest.param(
            {"BENTOML_CONTAINERIZED": "true"},
            "0.0.0.0",
            marks=pytest.mark.thorough,
            id="a container, whose network is its own",
        ),
    ],
)
def test_a_killed_worker_is_replaced_until_its_model_is_gone(tmp_path, settings, address):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    with running_server(tmp_path, SGN_MODEL=str(model), **settings) as server:
        supervisor = psutil.Process(server.pid)
        (worker,) = supervisor.children()
        assert server.addresses() == {f"{address}:{server.port}"}, "and on no port that commands the supervisor"
        if (start := start_seconds(server.log)) > SLOW_START_SECONDS:
            pytest.skip(f"a worker takes {start:.1f} s to start on this machine, more than {SLOW_START_SECONDS} s")
        with Hammer(server.url, clients=2) as hammer:
            hammer.wait_for(20)
            worker.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            hammer.wait_for(20)
        back = min(answer.answered for answer in hammer.answers if answer.asked > killed and answer.status == 200)
        assert back - killed < BACK_SECONDS, f"{back - killed:.1f} s, and a start {start:.1f} s"
        assert set(hammer.statuses()) <= {200, "ReadError", "RemoteProtocolError", "ConnectError", "WriteError"}
        (successor,) = supervisor.children()
        assert successor.pid != worker.pid
        figures = httpx.get(f"{server.url}/metrics").text
        assert "sgn_worker_starts_total 2.0" in figures
        assert "sgn_requests_in_flight 1.0" in figures, "the killed worker's are gone; this one is the question itself"

        model.write_bytes(b"no graph")
        written = len(server.log.read_text())
        successor.kill()
        assert supervisor.wait(60) == 1
        lines = server.log.read_text()[written:].splitlines()
        told = [line for line in lines if not line.startswith("{")]
        assert len(told) == 1, "one line, one try"
        assert told[0].startswith(f"error: {model}: not an ONNX file")


def test_a_port_that_is_taken_ends_the_server_with_one_line(tmp_path):
    environment = serve_environment(tmp_path, SGN_MODEL=str(save_tiny_graph(tmp_path / "tiny.onnx")))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            serve_command(port), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
    assert ended.returncode == 1
    lines = (ended.stdout + ended.stderr).splitlines()
    told = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "ERROR"]
    assert len(told) == 1, told
    assert told[0] == f"error: the port of 127.0.0.1:{port} is in use: make serve PORT=3001, or another --port"


@pytest.mark.thorough
def test_a_server_in_development_starts_its_worker_again_when_the_code_changes(tmp_path):
    """BentoML's --reload watches the code in a process of its own, which commands the supervisor.

    A SIGHUP that comes before there is a worker, such as that of a deployment, changes nothing.
    """
    code = tmp_path / "code"
    shutil.copytree(ROOT / "sgn_serve", code / "sgn_serve", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "bentofile.yaml", code)
    home = tmp_path / "home"
    home.mkdir()
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    port = free_port()
    environment = serve_environment(home, SGN_MODEL=str(model)) | {"PYTHONPATH": str(code), "TMPDIR": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*serve_command(port), "--reload"], cwd=code, env=environment, stdout=output, stderr=output
        )
    try:
        while not ignores(process.pid, signal.SIGHUP):
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        folder = next(path for path in tmp_path.glob("sgn-*") if path.is_dir())
        assert folder.stat().st_mode & 0o077 == 0, "whoever reaches its sockets may start programs"
        assert Server(f"http://127.0.0.1:{port}", log, process.pid).addresses() == {f"127.0.0.1:{port}"}
        before = {child.pid for child in psutil.Process(process.pid).children()}
        with (code / "sgn_serve" / "check.py").open("a") as file:
            file.write("# changed\n")
        deadline = time.monotonic() + 60
        while before <= {child.pid for child in psutil.Process(process.pid).children()}:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    finally:
        end(process)
    assert not folder.exists()


def ignores(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigIgn:")[1].split()[0], 16) >> (number - 1) & 1)


@pytest.mark.thorough
def test_a_worker_that_may_not_open_enough_files_ends_the_server(tmp_path):
    """It would be started for ever: no later try may open more."""
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    environment = serve_environment(tmp_path, SGN_MODEL=str(model), SGN_DECODERS="64")
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *serve_command(free_port())],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = (ended.stdout + ended.stderr).splitlines()
    assert ended.returncode == 1, lines
    told = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "ERROR"]
    assert len(told) == 1, told
    assert "this worker cannot start: [Errno 24] Too many open files" in told[0]


@pytest.mark.parametrize(("taken", "other"), [(3000, 3001), (3001, 3002), (3002, 3001)])
def test_the_port_that_is_named_instead_of_a_taken_one_is_another(taken, other):
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.sockets = {"http": SimpleNamespace(host="127.0.0.1", port=taken)}
    told = supervisor._refused(OSError(errno.EADDRINUSE, "taken"))
    assert told == f"the port of 127.0.0.1:{taken} is in use: make serve PORT={other}, or another --port"
