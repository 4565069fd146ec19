"""Workers with planted faults: one whose process ends at inputs of a certain name, and one whose decoders end."""

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from sgn_serve.classify import cage
from sgn_serve.classify.items import Item
from sgn_serve.classify.on_ray.worker import Worker
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
    """Does what each file says, as tests.sgn_serve.decoders.faults has it, in place of decoding it."""

    def __init__(self, settings: Settings, cores: int):
        vars(cage)["_JOB"] = JOB
        super().__init__(settings, cores)
