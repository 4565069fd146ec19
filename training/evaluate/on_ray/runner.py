"""Attack batches as tasks of a Ray cluster. The batch of a lost worker is attacked again, so that nothing is lost."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sgn_serve.common.error_text import first_line
from sgn_serve.common.ray_cluster import Cluster
from training.attacks.base import AttackOn
from training.common.errors import TrainingError
from training.common.exits import allocations_told
from training.common.ray_tasks import OnRayError, Tasks, Words, task_of
from training.evaluate.checks import Check
from training.evaluate.measuring import BatchResult
from training.evaluate.on_ray.subject import Subject, Unpacked
from training.evaluate.row_plan import Batch
from training.evaluate.runners import BatchDone, CheckDone

_AHEAD = 2
"""Tasks for each place of the cluster. While one is attacked, the next one is on its way."""


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
        subject: Network and pictures under attack.
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
        reference, task = ray.put(subject), task_of(run_task, size.cores, size.gpus)
        fix = "give more --threads, so that a machine has fewer workers, or a smaller --batch-size"
        words = Words(self._name, fix, note)
        self._tasks = Tasks[Batch | Check](cluster, lambda work: task.remote([reference], work), words)
        self._places = self._count_places()
        if not self._places:
            wanted = f"{size.cores} core{'' if size.cores == 1 else 's'}"
            wanted += f" and {size.gpus:g} of a GPU" if size.gpus else ""
            raise OnRayError(
                f"--ray {cluster.address}: no machine of the cluster has {wanted} for Ray; give a smaller --threads"
                + (" or --gpus-per-task" if size.gpus else "")
            )

    def has_room(self) -> bool:
        """Return whether another batch may be submitted now."""
        return len(self._tasks) < _AHEAD * self._places

    def submit(self, work: Batch | Check) -> None:
        """Begin a batch or a check, or let Ray put it behind others."""
        self._tasks.submit(work)

    def next(self) -> BatchDone | CheckDone:
        """Wait for a batch or a check, and return its result. See Runner.

        Raises:
            OnRayError: A machine cannot do it, or it has ended several workers.
            RayError: No head is left.
            torch.OutOfMemoryError: The memory is too small for it.
        """
        work, answer = self._tasks.next()
        self._places = self._count_places() or self._places  # machines come and go
        return _done(work, answer)

    def close(self) -> None:
        """End what is running. Batches that are not done are given up."""
        self._tasks.close()

    def _name(self, work: Batch | Check) -> str:
        if isinstance(work, Check):
            return work.name
        count = len(work.pictures)
        return f"{count} picture{'' if count == 1 else 's'} under {self._attacks[work.row].id.label}"

    def _count_places(self) -> int:
        """Return how many tasks the cluster has room for. Without an answer of its head, it is the last number."""
        if not self._cluster.head_answers():
            return self._places
        return _count_places(self._cluster, self._size)


def begin_processes(cluster: Cluster, size: TaskSize) -> None:
    """Have a process started for each place of a cluster, so that they import PyTorch while this one reads pictures.

    Nobody waits for them. One that fails does so again at its first batch, which tells why.

    Args:
        cluster: The connection.
        size: What Ray reserves for a task.
    """
    task = task_of(do_nothing, size.cores, size.gpus)
    for _ in range(_count_places(cluster, size)):
        task.remote()


def do_nothing() -> None:
    """Do nothing. A process that runs this must import the module, and with it PyTorch, which takes seconds."""


def _count_places(cluster: Cluster, size: TaskSize) -> int:
    return sum(places(machine, size) for machine in cluster.machines())


def places(machine: dict[str, float], size: TaskSize) -> int:
    """Return how many tasks a machine has room for.

    Args:
        machine: Its resources, as Ray names them.
        size: Cores and GPUs of a task.
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
