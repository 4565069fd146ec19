"""Train and judge experiments as tasks of a Ray cluster. That of a lost worker goes on where its last epoch ended."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import BinaryIO

from sgn_serve.common.error_text import one_line, say
from sgn_serve.common.ray_cluster import RayOptions, fitting_size
from training.common.errors import TrainingError
from training.common.files import WriteError
from training.common.ray_tasks import GO_ON, OnRayError, Tasks, Words, connected, task_of
from training.loop.run_lock import HANDED_OUT
from training.reproduce.experiment import Experiment
from training.reproduce.on_ray.claim import claimed
from training.reproduce.on_ray.logs import Logs
from training.reproduce.on_ray.place import Place, fault_of, place_here

_CHILD = "training.reproduce.on_ray.child"


@dataclass(frozen=True)
class Work:
    """Work on one experiment.

    Attributes:
        experiment: The experiment.
        judged: Whether it is judged once it is trained.
    """

    experiment: Experiment
    judged: bool

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.experiment.source.dataset}/{self.experiment.system}"


class LoggedExperiment(Experiment):
    """An experiment whose programs write into its log, and end with this process."""

    def _python(self, arguments: list[str]) -> int:
        with self._open_log() as log:
            log.write(f"\n$ {self.shell_command(arguments)}\n".encode())
            log.flush()
            return subprocess.run(
                [sys.executable, "-m", _CHILD, str(os.getpid()), *arguments[1:]],
                env=os.environ | {"PYTHONUNBUFFERED": "1", HANDED_OUT: "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ).returncode

    def _open_log(self) -> BinaryIO:
        """Open the log for what is added to it.

        Raises:
            WriteError: It cannot be written.
        """
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            return self.log.open("ab")
        except OSError as error:
            raise WriteError.of(self.log, error) from None


@dataclass(frozen=True)
class Answer:
    """Answer of a worker.

    Attributes:
        machine: The name of its machine.
        error: Why the experiment is not done, None where it is.
    """

    machine: str
    error: TrainingError | None = None


def run_experiment(place: Place, work: Work) -> Answer:
    """Train what is missing of an experiment, and judge it, in a process of the cluster.

    Args:
        place: The place of the run.
        work: The experiment.
    """
    machine = socket.gethostname()
    try:
        place.check()
        os.chdir(place.folder)
        experiment = LoggedExperiment(**vars(work.experiment))
        experiment.train()
        if work.judged:
            experiment.judge()
    except TrainingError as error:
        return Answer(machine, error)
    except OSError as error:  # it has the path in it
        return Answer(machine, TrainingError(one_line(error)))
    return Answer(machine)


def make_on_ray(experiments: Sequence[Experiment], options: RayOptions, *, judged: bool) -> None:
    """Train and judge experiments, as many at once as the cluster has room for.

    Args:
        experiments: The experiments. One that several rows need is made once.
        options: Where the cluster is, and how many workers are asked for.
        judged: Whether they are judged too.

    Raises:
        OnRayError: The cluster cannot be used, another command has an experiment, or one fails. What is done stays.
        WriteError: The folder of the runs cannot be written to.
        PlaceError: --data-root cannot be read here.
    """
    with connected(options.address) as cluster, place_here(experiments[0].source.data_root) as place:
        machines = cluster.machines()
        size = fitting_size(machines, options, any(machine.get("GPU", 0) for machine in machines))
        answers = cluster.on_each_machine(fault_of, place, go_on=GO_ON, note=_show)
        faults = [fault for fault in answers if fault]
        if faults:
            raise OnRayError(faults[0])
        works = [
            Work(replace(experiment, threads=experiment.threads or size.cores), judged)
            for experiment in dict.fromkeys(experiments)
        ]
        task = task_of(run_experiment, size.cores, size.gpus)
        fix = "give more --ray-cores, so that a machine has fewer workers, or use machines with more memory"
        words = Words(_name, fix, _show)
        with (
            claimed(experiments),
            closing(Tasks[Work](cluster, lambda work: task.remote(place, work), words)) as tasks,
        ):
            _work_off(works, tasks, size.workers)


def _work_off(works: Sequence[Work], tasks: Tasks[Work], workers: int) -> None:
    """Hand out works in their order, and wait for all of them.

    Args:
        works: The works.
        tasks: Tasks under way.
        workers: The most that are under way at once.

    Raises:
        OnRayError: One fails.
    """
    logs = Logs({work.name: work.experiment.log for work in works}, _show)
    waiting, done = list(works), 0
    while waiting or len(tasks):
        while waiting and len(tasks) < workers:
            tasks.submit(waiting.pop(0))
        work, answer = tasks.next(logs.look)
        logs.look()
        if answer.error is not None:
            raise OnRayError(f"{answer.machine}: {answer.error}")
        done += 1
        _show(f"{work.name}: done on {answer.machine} ({done} of {len(works)})")


def _name(work: Work) -> str:
    return work.name


def _show(line: str) -> None:
    say(line)
