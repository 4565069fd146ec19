"""Start a server from a checkout, as a user does, with its default settings."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError

_START_LIMIT_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        host: Where it listens.
        port: The TCP port.
        pid: The process that started all its others.
    """

    host: str
    port: int
    pid: int


@contextmanager
def running_server(checkout: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run `bentoml serve` from a checkout's root until the block ends.

    Args:
        checkout: The folder.
        settings: SGN_* variables. Those of this process are left away.

    Raises:
        BenchmarkError: It does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SGN_", "PROMETHEUS_"))}
        ours = {"BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True", "SGN_PROVIDERS": "cpu"}
        log = Path(home) / "log"
        command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=checkout,
                env={**inherited, **ours, **(settings or {})},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C ends this program, which then ends the server
            )
        try:
            _wait_until_ready(process, port, log)
            yield Server("127.0.0.1", port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise BenchmarkError(f"the server did not start: {log.read_text()[-500:]}")
