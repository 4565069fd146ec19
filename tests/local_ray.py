"""A Ray cluster on this machine."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

START_SECONDS = 120.0
WAIT_SECONDS = 300.0
_ROOT = Path(__file__).parents[1]


@contextmanager
def local_cluster(environment: Mapping[str, str]) -> Iterator[str]:
    """Start a cluster with room for two workers of a core, and end it. Its value is the address of its head.

    Args:
        environment: Variables for its workers.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the names of its sockets must be short
    options = ["--head", "--block", "--disable-usage-stats", f"--port={port}", "--node-ip-address=127.0.0.1"]
    options += ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000", "--include-dashboard=false"]
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *options]
    variables = {
        **os.environ,
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **environment,
        "PYTHONPATH": str(_ROOT),  # the workers import this package from where it is tested
    }
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(
            [*command, f"--temp-dir={folder}"], cwd=_ROOT, env=variables, stdout=told, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            ends = time.monotonic() + START_SECONDS
            while True:
                told.seek(0)
                said = told.read()
                if b"To connect to this Ray cluster" in said:
                    break
                assert process.poll() is None, said.decode(errors="replace")
                assert time.monotonic() < ends, said.decode(errors="replace")
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def workers(address: str) -> list[int]:
    """Return the numbers of the processes that a cluster on this machine has for work.

    Args:
        address: The address of its head.
    """
    found = []
    head = re.compile(rf"--gcs-address=\S+:{address.rpartition(':')[2]}\b")
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] != "raylet" or not head.search(" ".join(process.info["cmdline"] or [])):
            continue
        with suppress(psutil.NoSuchProcess):
            for child in process.children():
                with suppress(psutil.NoSuchProcess):
                    if _is_worker(child.cmdline()):
                        found.append(child.pid)
    return found


def _is_worker(command: list[str]) -> bool:
    if command and command[0].startswith("ray::"):  # the name of what it does
        return not command[0].endswith("Agent")
    return any(part.endswith("default_worker.py") for part in command)


def wait_until(holds: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for something, and fail where it does not come.

    Args:
        holds: Whether it is there.
        what: What it is, for the message.
        seconds: The longest time to wait.
    """
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"after {seconds:g} s it is not so that {what}"
        time.sleep(0.05)
