"""Workers with planted faults: one that ends at a name, one whose decoders end, and one that waits for another node."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sgn_serve.classify import cage
from sgn_serve.classify.items import Item
from sgn_serve.classify.on_ray.worker import Worker
from sgn_serve.classify.rows import Row
from sgn_serve.process.version import package_version
from sgn_serve.settings import Settings
from tests.sgn_serve.classify.packed_faults import JOB

POISON = "poison"


class FragileWorker:
    """Answers as on_ray.worker.Worker does: an answer is the name of its input."""

    def __init__(self, settings: Any, cores: int):
        pass

    def place(self) -> tuple[str, int]:
        """Return a name, and the number of the process."""
        return "here", os.getpid()

    def start(self, choice: Any) -> Any:
        """Start nothing."""
        return SimpleNamespace(
            card=SimpleNamespace(default_mode="on"), choice="none", version=package_version(), decisive={}
        )

    def classify(self, items: Sequence[Item]) -> list[str]:
        """Return the names of the inputs, or end the process."""
        if any(item.name == POISON for item in items):
            os._exit(1)
        return [item.name for item in items]


class FaultyWorker(Worker):
    """Does what each file says, as tests.sgn_serve.decoder_processes.faults has it, in place of decoding it."""

    def __init__(self, settings: Settings, cores: int):
        vars(cage)["_JOB"] = JOB
        super().__init__(settings, cores)


MEETING = "TEST_MEETING"
"""Environment variable of the workers: a folder."""
_MEETING_SECONDS = 240.0


class MeetingWorker(Worker):
    """Classifies nothing until a worker on another node of the cluster has something to classify too.

    Each leaves a file with the name of its node.
    """

    def classify(self, items: Sequence[Item]) -> list[Row]:
        """Return a row for each item, in their order.

        Raises:
            TimeoutError: No other node has come.
        """
        import ray

        folder = Path(os.environ[MEETING])
        (folder / ray.get_runtime_context().get_node_id()).touch()
        ends = time.monotonic() + _MEETING_SECONDS
        while len(list(folder.iterdir())) < 2:
            if time.monotonic() > ends:
                raise TimeoutError("no worker on another node has come")
            time.sleep(0.02)
        return super().classify(items)
