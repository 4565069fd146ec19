"""Start a Ray cluster on this machine, for benchmarks and tests."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import BenchmarkError

START_SECONDS = 120.0
_ROOT = Path(__file__).parents[1]


@contextmanager
def local_cluster(environment: Mapping[str, str], cores: int = 2, gpus: int = 0) -> Iterator[str]:
    """Start a cluster with room for a worker of one core on each of some cores, and end it.

    Its value is the address of its head.

    Args:
        environment: Variables for its workers.
        cores: Cores that it hands out.
        gpus: GPUs that it hands out. Ray takes our word for it.

    Raises:
        BenchmarkError: It does not start; the message holds what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the names of its sockets must be short
    options = ["--head", "--block", "--disable-usage-stats", f"--port={port}", "--node-ip-address=127.0.0.1"]
    options += [f"--num-cpus={cores}", f"--num-gpus={gpus}", "--object-store-memory=80000000"]
    options += ["--include-dashboard=false"]
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *options]
    variables = {
        **os.environ,
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray gives its workers a niceness of 15. Beside other work they would get a fortieth of a core.
        "RAY_worker_niceness": "0",
        **environment,
        "PYTHONPATH": str(_ROOT),  # the workers import this package from where it is
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
                if process.poll() is not None or time.monotonic() > ends:
                    raise BenchmarkError(f"Ray does not start: {said.decode(errors='replace')}")
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)
