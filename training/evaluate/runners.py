"""Run batches of attacks: the runner of one process, and what every runner does. Another one is on_ray.runner."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from training.evaluate.measuring import BatchResult
from training.evaluate.row_plan import Batch


class Runner(Protocol):
    """Attacks batches somewhere, and gives their results back in any order."""

    def has_room(self) -> bool:
        """Return whether another batch may be submitted now."""
        ...

    def submit(self, batch: Batch) -> None:
        """Begin a batch, or put it behind those that are submitted."""
        ...

    def next(self) -> tuple[Batch, BatchResult]:
        """Wait for a batch that was submitted, and return it with its result.

        Raises:
            TrainingError: It cannot be attacked; one line with the fix.
        """
        ...


class LocalRunner:
    """Attacks one batch after the other in this process.

    Args:
        measure: Attacks a batch.
    """

    def __init__(self, measure: Callable[[Batch], BatchResult]):
        self._measure = measure
        self._waiting: deque[Batch] = deque()

    def has_room(self) -> bool:
        """Return whether no batch is waiting."""
        return not self._waiting

    def submit(self, batch: Batch) -> None:
        """Let a batch be the next one."""
        self._waiting.append(batch)

    def next(self) -> tuple[Batch, BatchResult]:
        """Attack the batch that was submitted, and return it with its result."""
        batch = self._waiting.popleft()
        return batch, self._measure(batch)
