"""Start a server from a checkout, as a user does, with its default settings."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.service.server import end, free_port, service_command, service_environment, wait_until_ready

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
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        log = Path(home) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                service_command(port),
                cwd=checkout,
                env=service_environment(Path(home), **{"SGN_PROVIDERS": "cpu", **(settings or {})}),
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C ends this program, which then ends the server
            )
        try:
            wait_until_ready(process, port, log, _START_LIMIT_SECONDS)
            yield Server("127.0.0.1", port, process.pid)
        finally:
            end(process)
