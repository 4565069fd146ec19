"""A table that is made on a Ray cluster is that of one process, whatever happens to its workers."""

import fcntl
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sgn_serve.common import ray_cluster
from sgn_serve.common.ray_cluster import Cluster, RayError
from tests.local_ray import wait_until, workers
from tests.training.reproduce.short_child import KILL, short_experiment
from tests.training.reproduce.smoke_runs import result, smoke
from training.common.errors import TrainingError
from training.common.ray_tasks import OnRayError, Tasks, Words, connected, task_of
from training.evaluate.on_ray import subject
from training.loop.run_lock import LOCK, Owner
from training.loop.trainer import Trainer
from training.reproduce.experiment import DataSource, Experiment
from training.reproduce.on_ray import runner as runner_module
from training.reproduce.on_ray.claim import claimed
from training.reproduce.on_ray.logs import Logs
from training.reproduce.on_ray.place import Place, fault_of, place_here
from training.reproduce.on_ray.runner import Answer, Work
from training.reproduce.systems import BUDGETS

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.mark.thorough
@with_ray
def test_a_table_on_two_workers_is_that_of_one_process(
    cluster, picture_folder, tmp_path, monkeypatch, in_this_process, capsys
):
    """It begins in one process. On Ray it is interrupted, which ends all programs. Then a worker is killed.

    Another machine has left the lock of a run by then. One process finishes what the killed worker leaves, and so does
    Ray.
    """
    address, folder = cluster
    budget = BUDGETS["smoke"]
    monkeypatch.setitem(BUDGETS, "smoke", replace(budget, flags=(*budget.flags, "--epochs=2")))
    monkeypatch.setattr(runner_module, "run_experiment", short_experiment)
    name = f"colours of {tmp_path.name} {os.getpid()}"
    data = ["--dataset", "image-folder", "--dataset-name", name, "--data-root", str(picture_folder)]
    on_ray = [*data, "--ray", address, "--ray-cores", "1"]
    for run in ("one", "many"):
        (tmp_path / run).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert smoke("table1", *data) == 0
    printed = capsys.readouterr().out
    expected = rows()

    monkeypatch.chdir(tmp_path / "many")
    with interrupted_after_an_epoch():
        assert smoke("table1", *data) != 0
    assert len(list(Path("runs").rglob("state.pt"))) == 1
    capsys.readouterr()
    in_this_process.clear()
    look = Logs.look

    def interrupt(self):
        look(self)
        if programs(name):
            assert workers(address)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Logs, "look", interrupt)
        assert smoke("table1", *on_ray) == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command continues\n")
    wait_until(lambda: not workers(address), "Ctrl-C ends the workers")
    wait_until(lambda: not programs(name), "the programs of the workers end with them")
    assert not list(Path("runs").glob(".on-ray*"))

    (folder / KILL).touch()
    show = runner_module._show

    def keep(line):
        show(line)
        if line.startswith("a worker is lost"):
            copy_running(tmp_path / "many", tmp_path / "left")

    monkeypatch.setattr(runner_module, "_show", keep)
    with left_on_another_machine(Path("runs/reproduce/smoke/cifar10/pgd")):
        assert smoke("table1", *on_ray) == 0
    assert not (folder / KILL).exists()
    told = capsys.readouterr()
    assert told.out.startswith("| accuracy, % |  | clean |")
    assert printed.endswith(told.out), "training and judging print where they run"
    assert rows() == expected
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert len(one) == len(many) == 2
    for before, after in zip(one, many, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert in_this_process == [], "it was made here"
    assert told.err.count("a worker is lost (its process has ended), and what it had is done again: cifar10/") == 1
    resumed = [line for line in told.err.splitlines() if line.startswith("cifar10/") and line.endswith(" --resume")]
    assert len(resumed) >= 2, "that which began in one process, and that of the lost worker"
    for system in ("pgd", "gradient-oracle"):
        assert f"cifar10/{system}: $ python -m training --dataset image-folder" in told.err
        assert f"cifar10/{system}: $ python -m training.evaluate" in told.err
        assert f"cifar10/{system}: done on " in told.err
    assert smoke("table1", *data) == 0
    assert [command[1] for command in in_this_process] == ["training.evaluate"] * 2, "it goes on without Ray"
    assert rows() == expected

    in_this_process.clear()
    monkeypatch.chdir(tmp_path / "left")
    for lock in Path("runs").rglob(LOCK):
        lock.unlink()  # as people do who know that a training on another machine has ended
    assert smoke("table1", *data) == 0
    assert [command for command in in_this_process if command[-1] == "--resume"]
    assert rows() == expected
    for before, after in zip(one, weights(tmp_path / "left"), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@contextmanager
def interrupted_after_an_epoch() -> Iterator[None]:
    """Interrupt trainings of this process once they have saved their first epoch."""
    save = Trainer._save_state

    def saving(self: Trainer) -> None:
        save(self)
        if self.progress.epoch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save_state", saving)
        yield


def copy_running(source: Path, target: Path) -> None:
    """Copy a folder that others write to: files that go meanwhile are left out."""

    def copy(one: str, other: str) -> None:
        with suppress(FileNotFoundError):
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=copy)


@contextmanager
def left_on_another_machine(run: Path) -> Iterator[None]:
    """Leave a run as a worker on another machine does that is killed: the file server still holds its lock."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = Owner(7, "another", "the boot of another", "2026-01-02T03:04:05+00:00", handed_out=True)
        file.write(json.dumps(asdict(owner)))
        file.flush()
        yield


def rows() -> list[dict]:
    """Return the rows of the table here, without the machine and the time of each."""
    found = [{name: value for name, value in row.items() if name != "about"} for row in result("table1")["rows"]]
    for row in found:
        assert row["setting"].pop("checkpoint_sha256"), "a checkpoint says how long its training took"
    return found


def weights(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(folder.glob("runs/reproduce/smoke/cifar10/*/model.safetensors"))]


def programs(name: str) -> list[int]:
    """Return the numbers of the processes that have an argument."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if name.encode() in arguments and b"-m" in arguments:
            found.append(int(entry.parent.name))
    return found


@with_ray
def test_a_machine_that_does_not_see_the_folders_is_told_at_the_start(
    cluster, picture_folder, tmp_path, monkeypatch, in_this_process, capsys
):
    monkeypatch.chdir(tmp_path)
    check = Place.__init__

    def elsewhere(self, *given):
        check(self, *given)
        object.__setattr__(self, "marker", tmp_path / "elsewhere" / "marker")

    monkeypatch.setattr(Place, "__init__", elsewhere)
    data = ["--dataset", "image-folder", "--data-root", str(picture_folder)]
    assert smoke("table1", *data, "--ray", cluster[0]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f": it does not see {tmp_path / 'runs'} as the machine of the command does; every machine needs it" in error
    assert not list(Path("runs").rglob("*.log"))


@with_ray
def test_a_machine_without_this_package_is_told(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def answer():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    answer = importlib.import_module("only_here").answer
    message = r"lacks this package, or has another version of it \(ModuleNotFoundError: No module named 'only_here'\);"
    with connected(cluster[0]) as there:
        with pytest.raises(RayError, match=message):
            there.on_each_machine(answer, go_on="", note=pytest.fail)
        task = task_of(answer, 1, 0)
        tasks = Tasks[int](there, lambda work: task.remote(), Words(str, "", pytest.fail))
        tasks.submit(1)
        with pytest.raises(RayError, match=message):
            tasks.next()


@with_ray
def test_a_machine_that_gives_no_answer_is_named(cluster, monkeypatch):
    notes: list[str] = []
    asked = (subprocess.run, ["sleep", "5"])
    with connected(cluster[0]) as there:
        monkeypatch.setattr(ray_cluster, "_MACHINE_SECONDS", 0.1)
        assert there.on_each_machine(*asked, go_on="it goes on", note=notes.append) == []
    (note,) = notes
    assert re.fullmatch(r"note: 1 machine did not answer the check: \S+", note)


@with_ray
def test_a_head_that_goes_while_machines_are_asked_ends_the_command(cluster, monkeypatch):
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.05)
    with connected(cluster[0]) as there:
        monkeypatch.setattr(Cluster, "head_answers", lambda self: False)
        with pytest.raises(RayError, match=r"does not answer any more; once it is up again, it goes on$"):
            there.on_each_machine(subprocess.run, ["sleep", "5"], go_on="it goes on", note=pytest.fail)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.mat").touch()
    with place_here(Path("data")) as here:
        yield here


def test_folders_that_a_machine_does_not_see_are_named(place, tmp_path, monkeypatch):
    assert fault_of(place) == ""
    monkeypatch.setattr(subject, "software", lambda: {**place.software, "torch": "0.1"})
    assert ": it has torch 0.1 and not " in fault_of(place)
    monkeypatch.setattr(subject, "software", lambda: place.software)
    (tmp_path / "data" / "train.mat").rename(tmp_path / "data" / "test.mat")
    assert f"it does not see {tmp_path / 'data'} as the machine of the command does; " in fault_of(place)
    assert fault_of(place).endswith("; it lacks train.mat there")
    assert f"it does not see {tmp_path / 'gone'} as" in fault_of(replace(place, data_root=tmp_path / "gone"))
    place.marker.write_text("of another run")
    assert f"it does not see {tmp_path / 'runs'} as" in fault_of(place)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_cannot_be_written_to_is_named(place):
    marker = Path("/proc/version")
    read_only = replace(place, marker=marker, token=marker.read_text())
    assert re.fullmatch(
        r"\S+: it cannot write to /proc \(.+\); every machine must, as the user .+", fault_of(read_only)
    )
    assert fault_of(place) == ""
    assert [path.name for path in place.marker.parent.iterdir()] == [place.marker.name]


def test_a_log_that_cannot_be_written_to_is_told_in_a_line(place, monkeypatch):
    (work, *_) = works(place.folder)
    monkeypatch.setattr(Experiment, "_state", lambda self: None)
    work.experiment.log.mkdir(parents=True)
    answer = runner_module.run_experiment(place, work)
    assert str(answer.error).startswith(f"{work.experiment.log}: cannot be written (Is a directory); ")
    monkeypatch.setattr(os, "chdir", lambda folder: os.listdir(place.folder / "gone"))
    answer = runner_module.run_experiment(place, work)
    assert str(answer.error) == f"[Errno 2] No such file or directory: '{place.folder / 'gone'}'"


KILLED = """
import os, signal
from pathlib import Path
from training.reproduce.on_ray.place import place_here
with place_here(Path("data")):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_marker_of_a_killed_command_is_removed_by_the_next_one(place, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment)
    (left,) = set((tmp_path / "runs").iterdir()) - {place.marker}
    elsewhere, older = (left.with_name(f".on-ray-{name}") for name in ("elsewhere", "older"))
    for path in (elsewhere, older):
        path.write_text("0 another")
    with place_here(tmp_path):
        assert left.exists(), "a command that begins may have written it"
    for path, days in ((left, 1), (place.marker, 1), (elsewhere, 29), (older, 31)):
        os.utime(path, (time.time() - 86400 * days,) * 2)
    with place_here(tmp_path):
        pass
    assert set((tmp_path / "runs").iterdir()) == {place.marker, elsewhere}


def test_the_folder_has_the_name_that_the_shell_has_for_it(tmp_path, monkeypatch):
    """A link may lead elsewhere on another machine, as an automounter's do."""
    for name in ("behind", "other"):
        (tmp_path / name / "data").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "behind")
    monkeypatch.chdir(tmp_path / "home")
    for named, expected in (("home", "home"), ("other", "behind"), ("gone", "behind")):
        monkeypatch.setenv("PWD", str(tmp_path / named))
        with place_here(Path("data")) as here:
            assert here.folder == tmp_path / expected
            assert here.data_root == tmp_path / expected / "data"
            assert fault_of(here) == ""


def test_the_marker_of_a_run_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with place_here(tmp_path):
        assert len(list((tmp_path / "runs").iterdir())) == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_log_is_shown_line_by_line_from_where_it_is(tmp_path):
    path = tmp_path / "a.log"
    shown: list[str] = []
    path.write_text("of an earlier run\n")
    logs = Logs({"pgd": path, "trades": tmp_path / "none.log"}, shown.append)
    for text in ("one\ntw", "o\n", "\r 10%|#  |", "\r 20%|## |\n", "\n"):
        with path.open("a") as file:
            file.write(text)
        logs.look()
    assert shown == ["pgd: one", "pgd: two", "pgd:  10%|#  |", "pgd:  20%|## |"]


def test_a_log_is_shown_whatever_of_a_character_is_written(tmp_path):
    path = tmp_path / "a.log"
    shown: list[str] = []
    logs = Logs({"pgd": path}, shown.append)
    for byte in "\r 10%|██ |\n± 0.5 %\n".encode():
        with path.open("ab") as file:
            file.write(bytes([byte]))
        logs.look()
    text = "".join(line.removeprefix("pgd: ") for line in shown)
    assert text.replace(" ", "") == "10%|██|±0.5%"


class Instant:
    """Stands for Tasks: every work is done when it is asked for."""

    def __init__(self, answers: dict[str, TrainingError | None]):
        self.answers = answers
        self.given: list[Work] = []
        self.most = 0

    def __len__(self) -> int:
        return len(self.given)

    def submit(self, work: Work) -> None:
        self.given.append(work)
        self.most = max(self.most, len(self.given))

    def next(self, look):
        look()
        work = self.given.pop(0)
        return work, Answer("node7", self.answers.get(work.experiment.system))


def works(tmp_path: Path) -> list[Work]:
    source = DataSource("cifar10", "cifar10", tmp_path, "")
    systems = ("standard", "pgd", "bilateral")
    return [Work(Experiment(system, source, "smoke", BUDGETS["smoke"], 1), judged=True) for system in systems]


def test_no_more_experiments_than_workers_are_under_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tasks = Instant({})
    runner_module._work_off(works(tmp_path), tasks, 2)  # type: ignore[arg-type]
    assert tasks.most == 2
    assert capsys.readouterr().err == (
        "cifar10/standard: done on node7 (1 of 3)\n"
        "cifar10/pgd: done on node7 (2 of 3)\n"
        "cifar10/bilateral: done on node7 (3 of 3)\n"
    )


def test_a_failed_experiment_ends_the_run_with_its_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = Instant({"pgd": TrainingError("training reproduce/smoke/cifar10/pgd failed")})
    with pytest.raises(OnRayError, match=r"^node7: training reproduce/smoke/cifar10/pgd failed$"):
        runner_module._work_off(works(tmp_path), tasks, 2)  # type: ignore[arg-type]


def test_a_second_command_for_the_same_systems_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    standard, pgd, bilateral = (work.experiment for work in works(tmp_path))
    with claimed([standard, pgd, pgd]):
        with claimed([bilateral]):
            pass
        message = r"^another command trains and judges runs/reproduce/smoke/cifar10/pgd at this time \("
        with pytest.raises(OnRayError, match=message), claimed([bilateral, pgd]):
            pass
    with claimed([bilateral, pgd]):
        pass


PARENT = """
import os, subprocess, sys
code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
open("sleeper.py", "w").write(code)
subprocess.run([sys.executable, "-m", "training.reproduce.on_ray.child", str(os.getpid()), "sleeper"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes a second")
def test_a_program_ends_with_its_worker(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) != parent.pid
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == b"", "it ends when the program has ended"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ray-workers", "2"), "--ray-workers and --ray-cores are for --ray; give it too, or leave them out"),
        (("--ray", "auto", "--ray-cores", "0"), "'0' is not a number; give 1 or more"),
    ],
)
def test_options_that_cannot_be(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        smoke("table1", *arguments)
    assert message in capsys.readouterr().err


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setitem(sys.modules, "ray", None)
    assert smoke("table1", "--data-root", "data", "--dataset", "image-folder", "--ray", "auto") == 2
    assert capsys.readouterr().err.startswith("error: --ray needs Ray, which is not installed; install it with pip")
