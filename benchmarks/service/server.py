"""Run a server as a process of its own, and wait until it is ready."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from benchmarks.command_line import ROOT
from benchmarks.errors import BenchmarkError
from sgn_serve.http.paths import READY

POLL_SECONDS = 0.1


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service_command(port: int) -> list[str]:
    """Return the command that starts this service on a port."""
    return [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]


def service_environment(home: Path, **settings: str) -> dict[str, str]:
    """Return this process's environment with the service's settings, instead of those that it may have.

    Args:
        home: A folder of its own for BentoML's files. Two servers that share one delete each other's metrics.
        **settings: The SGN_* variables.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SGN_", "PROMETHEUS_"))}
    return {**inherited, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **settings}


@contextmanager
def running(
    command: Sequence[str], environment: dict[str, str], log: Path, end_seconds: float = 20
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server from the repository's root until the block ends.

    It gets a session of its own. Linux shares a busy machine's time among sessions first, so a server that starts its
    workers in another session would get a larger share. Source: sched(7), "The autogroup feature".

    Args:
        command: The command that starts it.
        environment: Its environment.
        log: File that gets its output.
        end_seconds: How long it may take to end before it is killed.

    Yields:
        Its process.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _end_all(process, end_seconds)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise SystemExit in the block, so that the servers that it runs are ended too."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def suspend(process: "subprocess.Popen[bytes]") -> None:
    """Stop a server and all that it started where they are, until `resume`. An idle server takes time of the others."""
    for one in _all_of(process):
        with suppress(psutil.NoSuchProcess):
            one.suspend()


def resume(process: "subprocess.Popen[bytes]") -> None:
    """Resume a suspended server."""
    for one in _all_of(process):
        with suppress(psutil.NoSuchProcess):
            one.resume()


def _all_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return a process and all that it started, the latest first."""
    try:
        first = psutil.Process(process.pid)
        return [*reversed(first.children(recursive=True)), first]
    except psutil.NoSuchProcess:
        return []


def end(process: "subprocess.Popen[bytes]", seconds: float = 20) -> None:
    """End a process and wait for it. It is killed where it takes longer than `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_all(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """End a process and all that it started. LitServe's workers would outlive it."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    end(process, seconds)
    _, left = psutil.wait_procs(started, timeout=2)
    for worker in left:
        worker.kill()


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path, seconds: float) -> None:
    """Wait until a server's readiness probe succeeds.

    Args:
        process: The server.
        port: Where it listens.
        log: File that gets its output.
        seconds: How long to wait at most.

    Raises:
        BenchmarkError: It has ended, or is not ready in time. The message has the last line that it printed.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        # URLError is an OSError.
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{READY}", timeout=5):
            return
        time.sleep(POLL_SECONDS)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    what = "is not ready in time" if process.poll() is None else f"ended with {process.returncode}"
    raise BenchmarkError(f"the server {what}: {lines[-1] if lines else 'it printed nothing'}")
