"""A server behind the proxy: it can be ended and started again, told to reload, and have its worker killed."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import psutil

from benchmarks.command_line import ROOT
from benchmarks.errors import BenchmarkError
from benchmarks.service.server import (
    POLL_SECONDS,
    free_port,
    service_command,
    service_environment,
    wait_until_ready,
)

LIMIT_SECONDS = 180


class Upstream:
    """A server with a graph of its own. Reloads take turns between the graph and one that differs in a remark only.

    Args:
        home: A folder of its own.
        graph: The exported graph.
    """

    def __init__(self, home: Path, graph: Path):
        home.mkdir()
        self.port = free_port()
        self._home = home
        self._graph = home / "served.onnx"
        model = onnx.load(graph)
        self._variants = [graph.read_bytes()]
        model.doc_string = "the same network, in another file"
        self._variants.append(model.SerializeToString())
        self._log = home / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_graph()

    def start(self) -> None:
        """Start it, without a wait until it is ready."""
        settings = {
            "SGN_MODEL": str(self._graph),
            "SGN_DRAIN_SECONDS": "0",
            "SGN_TRUSTED_PROXIES": "127.0.0.1",
            "SGN_PROVIDERS": "cpu",
        }
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                service_command(self.port),
                cwd=ROOT,
                env=service_environment(self._home, **settings),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it answers its readiness probe.

        Raises:
            BenchmarkError: It has ended, or takes too long.
        """
        wait_until_ready(self._running(), self.port, self._log, LIMIT_SECONDS)

    def restart(self) -> None:
        """End it with SIGTERM, as an operator does, and start it again.

        Raises:
            BenchmarkError: It does not end well, or does not start.
        """
        process = self._running()
        process.terminate()
        try:
            status = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the server on port {self.port} does not end after SIGTERM") from None
        if status != 0:
            raise BenchmarkError(f"the server on port {self.port} ended with status {status} after SIGTERM")
        self.start()
        self.wait_until_ready()

    def reload(self) -> None:
        """Have it serve another file, and wait until it does.

        Raises:
            BenchmarkError: It goes on serving the old one.
        """
        before = self._served()
        self._write_graph()
        self._running().send_signal(signal.SIGHUP)
        self._wait_for(lambda: self._served() != before, "serves another file after SIGHUP")

    def kill_worker(self) -> None:
        """Kill its worker, as the kernel does where memory is short, and wait until another one answers.

        Raises:
            BenchmarkError: None does.
        """
        workers = psutil.Process(self._running().pid).children()
        if not workers:
            raise BenchmarkError(f"the server on port {self.port} has no worker")
        workers[0].kill()
        self._wait_for(lambda: not workers[0].is_running(), "loses its worker")
        self.wait_until_ready()

    def stop(self) -> None:
        """Kill it and all that it started. Nothing happens where it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        supervisor = psutil.Process(self._process.pid)
        for one in [*supervisor.children(recursive=True), supervisor]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise BenchmarkError("the server was not started")
        return self._process

    def _write_graph(self) -> None:
        """Put the next variant in the place of the served file, at once."""
        self._variants.reverse()
        new = self._graph.with_suffix(".new")
        new.write_bytes(self._variants[0])
        os.replace(new, self._graph)

    def _served(self) -> str:
        """Return the SHA-256 of the graph that it serves, empty where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/model", timeout=30) as answer:
                return str(json.load(answer)["graph_sha256"])
        except OSError:
            return ""

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"the server on port {self.port} is too slow until it {what}")
            time.sleep(POLL_SECONDS)
