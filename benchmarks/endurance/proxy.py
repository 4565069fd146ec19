"""Run nginx with the committed configuration in front of servers on this machine."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.command_line import ROOT
from benchmarks.errors import BenchmarkError
from benchmarks.service.server import POLL_SECONDS, free_port

CONFIGURATION = ROOT / "deploy" / "nginx"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_START_SECONDS = 60


def nginx_is_there() -> bool:
    """Return whether nginx is installed."""
    return shutil.which("nginx", path=_PATH) is not None


@contextmanager
def running_nginx(folder: Path, ports: Sequence[int]) -> Iterator[int]:
    """Run nginx in front of servers until the block ends, and yield the port where it listens.

    Only where it listens, where the servers are and where it writes differ from deploy/nginx.

    Args:
        folder: An empty folder of its own.
        ports: Where the servers listen.

    Raises:
        BenchmarkError: It is not installed, or does not start.
    """
    if not nginx_is_there():
        raise BenchmarkError("nginx is not there: apt-get install nginx-light")
    folder.chmod(0o755)  # nginx's workers are not root
    port = free_port()
    text = (CONFIGURATION / "nginx.conf").read_text()
    (folder / "nginx.conf").write_text(text.replace("/tmp/self-gradient-network-nginx", f"{folder}/nginx"))
    pattern = next(
        line for line in (CONFIGURATION / "upstreams.conf").read_text().splitlines() if line.startswith("server ")
    )
    (folder / "upstreams.conf").write_text("\n".join(pattern.replace("3001", str(number)) for number in ports))
    (folder / "listen.conf").write_text(f"listen 127.0.0.1:{port};")
    errors = folder / "errors.log"
    command = ["nginx", "-e", str(errors), "-p", str(folder), "-c", "nginx.conf"]
    with errors.open("a") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": _PATH}, stdout=subprocess.DEVNULL, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"nginx does not start: {errors.read_text()[-500:]}")
            time.sleep(POLL_SECONDS)
        yield port
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
