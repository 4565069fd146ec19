"""Try a model in a process of its own before it is loaded.

A graph is a program: it may loop for ever, take all memory, or crash the engine. A model that does, or that answers
with NaN, is refused in one line, and the process that serves never sees it.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sgn_serve.common.graph_format import file_sha256
from sgn_serve.common.refusals import ServingError
from sgn_serve.process.cores import usable_cores
from sgn_serve.settings import Settings

if TYPE_CHECKING:
    from sgn_serve.inference.graph import Graph

logger = logging.getLogger("bentoml.sgn_serve")

TRIED_VARIABLE = "SELF_GRADIENT_TRIED"
"""Environment variable with the trial of the model for all workers when the server started, as Tried.to_json writes it.
"""
_PROCESS = "sgn_serve.serving.trial_process"
_POLL_SECONDS = 0.02
_START_SECONDS = 120
"""Longest time that the process may take to start, which has nothing to do with the model."""
_LOWER_PRIORITY = 5
"""Niceness of a trial beside a model that serves: it then gets about a quarter of a core that is wanted by both."""
_PRINTED = 4096
"""Bytes at the end of what a trial printed that are looked at."""


class TrialError(ServingError):
    """A model cannot be served. The message, one line, names its file, the reason and the fix."""


@dataclass(frozen=True)
class Tried:
    """A model that can be served.

    Attributes:
        graph_sha256: SHA-256 of the graph's file.
        summary: One line about the model and what it runs on.
        notes: Lines about files beside the graph that are not of this graph, and so are not shown.
        choice: The fields of the EngineChoice that it was tried with. All workers take it: times vary, so that each by
            itself might choose another engine, and answer slightly differently.
    """

    graph_sha256: str
    summary: str
    notes: tuple[str, ...] = ()
    choice: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return what from_json reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Tried":
        """Return the trial that to_json described."""
        values = json.loads(text)
        return cls(**{**values, "notes": tuple(values["notes"])})

    def tell_workers(self) -> None:
        """Log the trial, and hand it to the workers that this process starts, so that they do not try again."""
        logger.info("%s", self.summary)
        for note in self.notes:  # told here, and not once more by each worker
            logger.warning("%s", note)
        os.environ[TRIED_VARIABLE] = self.to_json()

    @classmethod
    def by_supervisor(cls) -> "Tried | None":
        """Return the trial that the process which started this one has made; None where it has made none."""
        text = os.environ.get(TRIED_VARIABLE)
        return cls.from_json(text) if text else None


def try_model(settings: Settings) -> Tried:
    """Try the model that these settings name, and wait for it.

    Raises:
        TrialError: It cannot be served.
    """
    trial = _Trial(settings)
    try:
        while trial.running():
            time.sleep(_POLL_SECONDS)
        return trial.outcome()
    finally:
        trial.end()


async def try_model_beside(settings: Settings) -> Tried:
    """Try the model that these settings name, with lower priority, while this process goes on serving another one.

    Raises:
        TrialError: It cannot be served.
    """
    trial = _Trial(settings, _LOWER_PRIORITY)
    try:
        while trial.running():
            await asyncio.sleep(_POLL_SECONDS)
        return trial.outcome()
    finally:
        trial.end()


def read_tried_graph(settings: Settings, tried: Tried | None) -> "tuple[Graph, Tried]":
    """Read the graph that was tried. One that has changed since then is tried first.

    Args:
        settings: The settings, which name the file.
        tried: The trial of the graph, None where there was none.

    Returns:
        The graph, and its trial.

    Raises:
        GraphError: See read_graph.
        TrialError: See try_model. Or the file changed while it was read.
    """
    from sgn_serve.inference.graph import read_graph  # the supervisor, which only tries it, does without

    path = settings.model_path
    if tried is None or not path.is_file() or file_sha256(path) != tried.graph_sha256:
        tried = try_model(settings)
    graph = read_graph(path)
    check_unchanged(graph, tried.graph_sha256)
    return graph, tried


def check_unchanged(graph: "Graph", tried_sha256: str) -> None:
    """Check that a graph is the one that was tried.

    Raises:
        GraphError: It is another one.
    """
    from sgn_serve.inference.graph import GraphError

    if graph.file_sha256 != tried_sha256:
        raise GraphError(f"{graph.path}: it changed while it was read; try again once it is complete")


class _Trial:
    """A running trial.

    Args:
        settings: The settings of the service.
        niceness: How much lower its priority is than this process's.
    """

    def __init__(self, settings: Settings, niceness: int = 0):
        self._settings = settings
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (end closes it)
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115
        self._broken = ""
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS, str(os.getpid())],
            env={**os.environ, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "2"},
            stdin=subprocess.PIPE,
            stdout=self._answer,
            stderr=self._printed,
            start_new_session=True,  # Ctrl-C is for the server, which ends its trial
        )
        if niceness:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        self._begun = False
        self._until = time.monotonic() + _START_SECONDS
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # broken: its status tells more
            pipe.write(settings.model_dump_json(exclude={"api_tokens"}).encode())

    def running(self) -> bool:
        """Return whether the trial goes on. One that passes a bound is killed."""
        if self._process.poll() is not None:
            return False
        if not self._begun and os.fstat(self._answer.fileno()).st_size:
            self._begun = True
            self._until = time.monotonic() + self._settings.trial_seconds
        if time.monotonic() > self._until:
            self._kill(_too_slow(self._settings))
        elif _resident_bytes(self._process.pid) > self._settings.trial_bytes:
            self._kill(_too_large(self._settings))
        else:
            return True
        return False

    def outcome(self) -> Tried:
        """Return the model that was tried.

        Raises:
            TrialError: It cannot be served.
        """
        answer = self._read_answer()
        if "graph_sha256" in answer:
            return Tried(answer["graph_sha256"], answer["summary"], tuple(answer["notes"]), answer["choice"])
        if answer.get("engine"):  # its messages refer to what the engine printed
            sys.stderr.write(self._read(self._printed))
            sys.stderr.flush()
        if answer.get("memory"):
            raise TrialError(_too_large(self._settings))
        raise TrialError(self._broken or answer.get("error") or self._ended())

    def end(self) -> None:
        """Kill what still runs, and close its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._printed.close()
        self._answer.close()

    def _kill(self, why: str) -> None:
        self._broken = why
        self._process.kill()
        self._process.wait()

    def _read_answer(self) -> dict[str, Any]:
        try:
            answer = json.loads(self._read(self._answer).splitlines()[-1])
        except (ValueError, IndexError):
            return {}
        return answer if isinstance(answer, dict) and not self._broken else {}

    def _read(self, file: IO[bytes]) -> str:
        """Return the end of what a file holds."""
        file.seek(max(0, file.seek(0, os.SEEK_END) - _PRINTED))
        return file.read().decode(errors="replace")

    def _ended(self) -> str:
        """Return why a trial without an answer cannot be served."""
        path, status = self._settings.model_path, self._process.returncode
        printed = self._read(self._printed)
        if "bad_alloc" in printed or "MemoryError" in printed:
            return _too_large(self._settings)
        if status >= 0:
            logger.error("a trial ended with status %d: %s", status, printed)
            return f"{path}: its trial ended with status {status}; the log tells more"
        name = signal.Signals(-status).name
        if name == "SIGXCPU":
            return _too_slow(self._settings)
        if name == "SIGKILL":
            return f"{path}: its trial was killed, as the system does where memory runs out; export a smaller network"
        return (
            f"{path}: it crashes the engine ({name}); export it again, with another version of onnxruntime if need be"
        )


def _too_slow(settings: Settings) -> str:
    cores = usable_cores()
    crowded = f"lower SGN_THREADS, of which there are more than the {cores} cores, "
    return (
        f"{settings.model_path}: it does not answer within {settings.trial_seconds:g} s, as its first pictures should; "
        f"{crowded if settings.threads > cores else ''}"
        "raise SGN_TRIAL_SECONDS if it is slow, or export it again if it loops for ever"
    )


def _too_large(settings: Settings) -> str:
    return (
        f"{settings.model_path}: it takes more than {settings.trial_mb} MB of memory; "
        "raise SGN_TRIAL_MB if it should, or export a smaller network"
    )


def _resident_bytes(pid: int) -> int:
    """Return the memory that a process has in use. It is 0 on systems without /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0
