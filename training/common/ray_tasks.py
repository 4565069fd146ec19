"""Work as tasks of a Ray cluster. The tasks of a lost worker are done again by another one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sgn_serve.common.ray_cluster import TRIES, Cluster, Head, RayError, check_found, reason_of_loss, wait_for
from training.common.errors import TrainingError

GO_ON = "the same command goes on"

_Work = TypeVar("_Work")


class OnRayError(TrainingError):
    """The cluster cannot be used, or cannot do a piece of work. The message, one line, names the fix."""


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a cluster for a while.

    Args:
        address: HOST:PORT of its head, or "auto" for the cluster that this machine belongs to.

    Raises:
        OnRayError: There is none, or its head has gone meanwhile.
    """
    try:
        with Cluster(address) as cluster:
            yield cluster
    except RayError as error:
        raise OnRayError(str(error)) from None


def task_of(function: Callable[..., Any], cores: int, gpus: float) -> Any:
    """Return a function as Ray calls it on any machine that has room.

    Args:
        function: Found by its name on every machine.
        cores: Cores that Ray reserves for a call.
        gpus: GPUs, or a share of one.
    """
    import ray

    return ray.remote(max_calls=0)(function).options(
        num_cpus=cores,
        num_gpus=gpus,
        max_retries=0,  # what is lost is submitted again by Tasks, with a line that says so
        scheduling_strategy="SPREAD",
    )


@dataclass(frozen=True)
class Words(Generic[_Work]):
    """Texts for the user.

    Attributes:
        name: Names a piece of work.
        fix: The fix where a piece of work ends its workers.
        note: Prints a line.
    """

    name: Callable[[_Work], str]
    fix: str
    note: Callable[[str], None]


@dataclass(eq=False)
class _Task(Generic[_Work]):
    """A piece of work that was submitted.

    Attributes:
        work: The work.
        losses: Number of workers that were lost while they had it.
    """

    work: _Work
    losses: int = 0


class Tasks(Generic[_Work]):
    """Pieces of work that are under way on a cluster.

    Args:
        cluster: The connection.
        begin: Begins a piece of work, and returns Ray's reference of its answer.
        words: Texts for the user.
    """

    def __init__(self, cluster: Cluster, begin: Callable[[_Work], Any], words: Words[_Work]):
        self._cluster = cluster
        self._begin = begin
        self._words = words
        self._head = Head(cluster, GO_ON)
        self._running: dict[Any, _Task[_Work]] = {}

    def __len__(self) -> int:
        """Return the number of pieces that are under way."""
        return len(self._running)

    def submit(self, work: _Work) -> None:
        """Begin a piece of work, or let Ray put it behind others."""
        self._submit(_Task(work))

    def next(self, look: Callable[[], None] = lambda: None) -> tuple[_Work, Any]:
        """Wait for a piece of work, and return it with its answer.

        Args:
            look: Called about once a second while nothing is done.

        Raises:
            OnRayError: It has ended several workers.
            RayError: No head is left, or a machine lacks the code.
        """
        import ray

        while True:
            done, _ = wait_for(list(self._running))
            if not done:
                self._head.wait()
                look()
                continue
            task = self._running.pop(done[0])
            try:
                answer = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                check_found(error, self._cluster.address)
                if not isinstance(error.cause, ray.exceptions.RayError):  # such as a full object store
                    raise
                self._lose(task, error.cause)
            except ray.exceptions.RayError as error:
                self._lose(task, error)
            else:
                return task.work, answer

    def close(self) -> None:
        """End what is running. Pieces that are not done are given up."""
        import ray

        if not self._cluster.lost and self._cluster.head_answers():
            for answer in self._running:
                ray.cancel(answer, force=True)
        self._running.clear()

    def _submit(self, task: _Task[_Work]) -> None:
        self._running[self._begin(task.work)] = task

    def _lose(self, task: _Task[_Work], error: Exception) -> None:
        """Do again what a lost worker had.

        Raises:
            OnRayError: It has ended several workers.
        """
        task.losses += 1
        name, reason = self._words.name(task.work), reason_of_loss(error)
        if task.losses == TRIES:
            raise OnRayError(f"{TRIES} workers have ended at {name} ({reason}); {self._words.fix}")
        self._words.note(f"a worker is lost ({reason}), and what it had is done again: {name}")
        self._head.wait()
        self._submit(task)
