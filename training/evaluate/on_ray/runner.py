"""Attack batches as tasks of a Ray cluster. The batch of a lost worker is attacked again, so that nothing is lost."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sgn_serve.ray_cluster import Cluster, RayError, reason_of_loss
from training.attacks.base import AttackOn
from training.common.endings import allocations_told
from training.common.errors import TrainingError, first_line
from training.evaluate.checks import Check
from training.evaluate.measuring import BatchResult
from training.evaluate.on_ray.subject import Subject, Unpacked
from training.evaluate.row_plan import Batch
from training.evaluate.runners import BatchDone, CheckDone

GO_ON = "the same command goes on"
_AHEAD = 2
"""Tasks for each place of the cluster. While one is attacked, the next one is on its way."""
_TRIES = 3
"""Workers that a batch may end. After that the batch itself is to blame, and not a machine."""
_LOOK_SECONDS = 1.0
_HEAD_SECONDS = 15.0
"""Time without a head after which the command ends. Ray itself would end it after 60 s, with no word of ours."""


class OnRayError(TrainingError):
    """The cluster cannot be used, or cannot attack a batch. The message, one line, names the fix."""


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a cluster for a while.

    Args:
        address: HOST:PORT of its head, or "auto" for the cluster that this machine belongs to.

    Raises:
        OnRayError: There is none.
    """
    try:
        with Cluster(address) as cluster:
            yield cluster
    except RayError as error:
        raise OnRayError(str(error)) from None


@dataclass(frozen=True)
class TaskSize:
    """Resources that Ray reserves for a task.

    Attributes:
        cores: Cores, and as many CPU threads.
        gpus: GPUs, or a share of one. 0 attacks on the CPU.
    """

    cores: int
    gpus: float


def task_size(cluster: Cluster, threads: int | None, gpus: float | None, on_cpu: bool) -> TaskSize:
    """Return what a task needs.

    Args:
        cluster: The connection.
        threads: CPU threads that are asked for, None for one.
        gpus: GPUs that are asked for, None for one where the cluster has any.
        on_cpu: Whether the CPU is asked for.
    """
    if gpus is None:
        any_there = any(machine.get("GPU", 0) for machine in cluster.machines())
        gpus = 1.0 if any_there and not on_cpu else 0.0
    return TaskSize(threads or 1, gpus)


@dataclass(eq=False)
class _Task:
    """A batch or a check that was submitted.

    Attributes:
        work: The batch or the check.
        losses: Number of workers that were lost while they had it.
    """

    work: Batch | Check
    losses: int = 0


@dataclass(frozen=True)
class Answer:
    """Answer of a task.

    Attributes:
        machine: The name of its machine.
        result: The result, or why there is none.
    """

    machine: str
    result: BatchResult | dict[str, Any] | TrainingError | MemoryError


class RayRunner:
    """Attacks batches on the machines of a cluster. See runners.Runner.

    Args:
        cluster: The connection.
        subject: What is attacked.
        attacks: All attacks, for messages.
        size: What Ray reserves for a batch.
        note: Prints a line for the user.
    """

    def __init__(
        self,
        cluster: Cluster,
        subject: Subject,
        attacks: Sequence[AttackOn[Any]],
        size: TaskSize,
        note: Callable[[str], None],
    ):
        import ray

        self._cluster = cluster
        self._attacks = attacks
        self._size = size
        self._note = note
        self._subject = ray.put(subject)
        self._task = ray.remote(max_calls=0)(run_task).options(
            num_cpus=size.cores,
            num_gpus=size.gpus,
            max_retries=0,  # a lost batch is submitted again here, with a line that says so
            scheduling_strategy="SPREAD",
        )
        self._running: dict[Any, _Task] = {}
        self._silent_since: float | None = None
        self._places = self._count_places()
        if not self._places:
            wanted = f"{size.cores} core{'' if size.cores == 1 else 's'}"
            wanted += f" and {size.gpus:g} of a GPU" if size.gpus else ""
            raise OnRayError(
                f"--ray {cluster.address}: no machine of the cluster has {wanted} for Ray; give a smaller --threads or "
                "--gpus-per-task"
            )

    def has_room(self) -> bool:
        """Return whether another batch may be submitted now."""
        return len(self._running) < _AHEAD * self._places

    def submit(self, work: Batch | Check) -> None:
        """Begin a batch or a check, or let Ray put it behind others."""
        self._submit(_Task(work))

    def next(self) -> BatchDone | CheckDone:
        """Wait for a batch or a check, and return its result. See Runner.

        Raises:
            OnRayError: A machine cannot do it, it has ended several workers, or no head is left.
            torch.OutOfMemoryError: The memory is too small for it.
        """
        import ray

        while True:
            done, _ = ray.wait(list(self._running), timeout=_LOOK_SECONDS)
            if not done:
                self._check_head()
                continue
            task = self._running.pop(done[0])
            try:
                answer: Answer = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, ray.exceptions.RayError):  # such as a full object store
                    raise
                self._lose(task, error.cause)
            except ray.exceptions.RayError as error:
                self._lose(task, error)
            else:
                self._places = self._count_places() or self._places  # machines come and go
                return _done(task.work, answer)

    def close(self) -> None:
        """End what is running. Batches that are not done are given up."""
        import ray

        if not self._cluster.lost and self._cluster.head_answers():
            for answer in self._running:
                ray.cancel(answer, force=True)
        self._running.clear()

    def _submit(self, task: _Task) -> None:
        self._running[self._task.remote([self._subject], task.work)] = task

    def _lose(self, task: _Task, error: Exception) -> None:
        """Do again what a lost worker had.

        Raises:
            OnRayError: It has ended several workers.
        """
        task.losses += 1
        name, reason = self._name(task.work), reason_of_loss(error)
        if task.losses == _TRIES:
            raise OnRayError(
                f"{_TRIES} workers have ended at {name} ({reason}); give more --threads, so that a machine has fewer "
                "workers, or a smaller --batch-size"
            )
        self._note(f"a worker is lost ({reason}), and what it had is done again: {name}")
        self._check_head()
        self._submit(task)

    def _name(self, work: Batch | Check) -> str:
        if isinstance(work, Check):
            return work.name
        count = len(work.pictures)
        return f"{count} picture{'' if count == 1 else 's'} under {self._attacks[work.row].id.label}"

    def _count_places(self) -> int:
        """Return how many tasks the cluster has room for. Without an answer of its head, it is the last number."""
        if not self._cluster.head_answers():
            return self._places
        return sum(places(machine, self._size) for machine in self._cluster.machines())

    def _check_head(self) -> None:
        """Check that the head answers, or has done so a short time ago.

        Raises:
            OnRayError: It has not.
        """
        while not self._cluster.head_answers():
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if now - self._silent_since >= _HEAD_SECONDS:
                self._cluster.lost = True
                raise OnRayError(f"the head of the Ray cluster does not answer any more; once it is up again, {GO_ON}")
            time.sleep(_LOOK_SECONDS)
        self._silent_since = None


def places(machine: dict[str, float], size: TaskSize) -> int:
    """Return how many tasks a machine has room for.

    Args:
        machine: Its resources, as Ray names them.
        size: What a task needs.
    """
    by_cores = int(machine.get("CPU", 0) // size.cores)
    if not size.gpus:
        return by_cores
    gpus = machine.get("GPU", 0)
    by_gpus = int(gpus) * int(1 / size.gpus + 1e-9) if size.gpus <= 1 else int(gpus // size.gpus)
    return min(by_cores, by_gpus)


_unpacked: dict[Any, Unpacked] = {}
"""The subject that this process has made ready, by Ray's reference of it."""


def run_task(reference: list[Any], work: Batch | Check) -> Answer:
    """Attack a batch or measure a check, in a process of the cluster.

    Args:
        reference: Ray's reference of the subject, in a list, so that Ray does not read it for each task.
        work: The batch or the check.
    """
    import ray

    machine = socket.gethostname()
    try:
        with allocations_told():
            if reference[0] not in _unpacked:
                _unpacked.clear()
                _unpacked[reference[0]] = Unpacked(ray.get(reference[0]))
            return Answer(machine, _unpacked[reference[0]].do(work))
    except TrainingError as error:
        return Answer(machine, error)
    except torch.OutOfMemoryError as error:  # of PyTorch, which Ray need not know
        return Answer(machine, MemoryError(first_line(error)))


def _done(work: Batch | Check, answer: Answer) -> BatchDone | CheckDone:
    """Return a result with what it is of.

    Raises:
        OnRayError: There is none.
        torch.OutOfMemoryError: The memory was too small for it.
    """
    if isinstance(work, Batch) and isinstance(answer.result, BatchResult):
        return BatchDone(work, answer.result)
    if isinstance(work, Check) and isinstance(answer.result, dict):
        return CheckDone(work, answer.result)
    if isinstance(answer.result, MemoryError):
        raise torch.OutOfMemoryError(f"on {answer.machine}: {first_line(answer.result)}")
    raise OnRayError(f"{answer.machine}: {answer.result}")
