"""Run batches of attacks: the runner of one process, and what every runner does. Another one is on_ray.runner."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from training.evaluate.checks import Check
from training.evaluate.measuring import BatchResult
from training.evaluate.row_plan import Batch


@dataclass(frozen=True)
class BatchDone:
    """A batch with its result."""

    batch: Batch
    result: BatchResult


@dataclass(frozen=True)
class CheckDone:
    """A check with what it has found, by name."""

    check: Check
    found: dict[str, Any]


class Runner(Protocol):
    """Attacks batches and measures checks somewhere, and gives the results back in any order."""

    def has_room(self) -> bool:
        """Return whether more may be submitted now."""
        ...

    def submit(self, work: Batch | Check) -> None:
        """Begin a batch or a check, or put it behind those that are submitted."""
        ...

    def next(self) -> BatchDone | CheckDone:
        """Wait for something that was submitted, and return its result.

        Raises:
            TrainingError: There is none; one line with the fix.
        """
        ...


class LocalRunner:
    """Does one thing after the other in this process.

    Args:
        run: Attacks a batch, or measures a check.
    """

    def __init__(self, run: Callable[[Batch | Check], BatchDone | CheckDone]):
        self._run = run
        self._waiting: deque[Batch | Check] = deque()

    def has_room(self) -> bool:
        """Return whether nothing is waiting."""
        return not self._waiting

    def submit(self, work: Batch | Check) -> None:
        """Queue a batch or a check."""
        self._waiting.append(work)

    def next(self) -> BatchDone | CheckDone:
        """Do what was submitted, and return its result."""
        return self._run(self._waiting.popleft())
