"""A worker without a network, whose process ends at inputs of a certain name."""

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from sgn_serve.classify.items import Item
from sgn_serve.process.version import package_version

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
        return SimpleNamespace(card=None, choice="none", version=package_version(), decisive={})

    def classify(self, items: Sequence[Item]) -> list[str]:
        """Return the names of the inputs, or end the process."""
        if any(item.name == POISON for item in items):
            os._exit(1)
        return [item.name for item in items]
