"""Start a Ray cluster on this machine, for benchmarks and tests."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from benchmarks.command_line import ROOT
from benchmarks.errors import BenchmarkError

START_SECONDS = 120.0
_HOST = "127.0.0.1"
_STARTED = b"will now block forever"
"""Line that `ray start --block` says once it has written down the address of the head for --ray auto."""


@contextmanager
def local_cluster(environment: Mapping[str, str], cores: int = 2, gpus: int = 0) -> Iterator[str]:
    """Start a cluster with room for a worker of one core on each of some cores, and end it.

    Its value is the address of its head.

    Args:
        environment: Variables for its workers. With RAY_TMPDIR its files stay in that folder; else they are removed.
        cores: Cores that it hands out.
        gpus: GPUs that it hands out. Ray takes our word for it.

    Raises:
        BenchmarkError: It does not start; the message holds what it printed.
    """
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = free.getsockname()[1]
    # The names of its sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = ["--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
        options += [f"--num-cpus={cores}", f"--num-gpus={gpus}"]
        with _node(options, {"RAY_TMPDIR": folder, **environment}):
            yield f"{_HOST}:{port}"


@contextmanager
def joined_node(address: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Start another node of a cluster, as a second machine with one core would, and end it.

    Args:
        address: The address of the head.
        environment: Variables for its workers.

    Raises:
        BenchmarkError: See local_cluster.
    """
    with _node([f"--address={address}", "--num-cpus=1", "--num-gpus=0"], environment):
        yield


@contextmanager
def _node(options: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Run `ray start` for a while.

    Args:
        options: Options that differ between nodes.
        environment: Variables for it and its workers.

    Raises:
        BenchmarkError: See local_cluster.
    """
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", *options]
    command += [f"--node-ip-address={_HOST}", "--object-store-memory=80000000"]
    variables = {
        **os.environ,
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray gives its workers a niceness of 15. Beside other work they would get a fortieth of a core.
        "RAY_worker_niceness": "0",
        **environment,
        "PYTHONPATH": str(ROOT),  # the workers import this package from where it is
    }
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(command, cwd=ROOT, env=variables, stdout=told, stderr=subprocess.STDOUT) as process,
    ):
        try:
            ends = time.monotonic() + START_SECONDS
            while True:
                told.seek(0)
                said = told.read()
                if _STARTED in said:
                    break
                if process.poll() is not None or time.monotonic() > ends:
                    raise BenchmarkError(f"Ray does not start: {said.decode(errors='replace')}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()
