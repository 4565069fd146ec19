"""An evaluation on a Ray cluster gives the report of one process, whatever happens to its workers."""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.local_ray import local_cluster
from sgn_serve.common import ray_cluster
from sgn_serve.common.ray_cluster import Cluster, RayError
from tests.local_ray import kill_head, wait_until, workers
from tests.short_attacks import shorten
from tests.training import checkpoints
from tests.training.evaluate.fragile_task import BATCHES, EVER, ONCE, fragile_task, short_task
from tests.training.evaluate.large_answer import large_answer
from training.attacks.black_box import SourceNetwork
from training.attacks.registry import Context, build_attacks
from training.attacks.rows import RowId
from training.common.ray_tasks import OnRayError, Tasks, Words, connected, task_of
from training.evaluate import evaluate as evaluate_module
from training.evaluate import measuring
from training.evaluate.command import main
from training.evaluate.measuring import BatchResult, Trial, measure_batch
from training.evaluate.on_ray import runner as runner_module
from training.evaluate.on_ray import subject as subject_module
from training.evaluate.on_ray.runner import RayRunner, TaskSize, places, task_size
from training.evaluate.on_ray.subject import MachineError, Unpacked, pack
from training.evaluate.row_plan import Batch
from training.evaluate.runners import BatchDone
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def arguments(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of the command for a tiny network, but for the report's."""
    checkpoint = checkpoints.save_untrained(tmp_path_factory.mktemp("tiny"), checkpoints.tiny_info())
    given = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=24", "--eps=0.002"]
    attacks = ["--attacks", "fgsm", "pgd-2", "pgd-10", "--beta", "20"]
    return [*given, *attacks, "--threads=1", "--batch-size=4"]


@pytest.fixture(scope="module")
def judging(arguments):
    """Runs the command on a tiny network, with short checks here, and returns its status."""

    def judge(report: Path, *more: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch.setattr)
            return main([*arguments, f"--report={report}", *more])

    return judge


@dataclass(frozen=True)
class Whole:
    """The figures of a report, and the number of its batches."""

    figures: dict[str, Any]
    batches: int


@pytest.fixture(scope="module")
def whole(judging, tmp_path_factory) -> Whole:
    """Return the figures of one process."""
    path = tmp_path_factory.mktemp("whole") / "e.json"
    measured: list[str] = []
    original = measuring.measure_batch

    def counting(trial, attack, pictures):
        measured.append(attack.id.label)
        return original(trial, attack, pictures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "measure_batch", counting)
        assert judging(path) == 0
    found = figures(path)
    left = {round(row["accuracy"] * 24) for row in found["rows"]}
    assert len(left) >= 5, "rows that say nothing would be alike in any case"
    return Whole(found, len(measured))


def figures(path: Path) -> dict[str, Any]:
    """Return a report without what every run has otherwise: the command, the times, and what began it."""
    found = json.loads(path.read_text())
    for row in found["rows"]:
        assert row.pop("core_seconds") is not None
    assert found["about"].pop("command")
    return {name: value for name, value in found.items() if name != "earlier"}


@pytest.mark.thorough
@with_ray
def test_a_worker_that_is_killed_under_way_changes_nothing(cluster, judging, whole, tmp_path, capsys, monkeypatch):
    address, folder = cluster
    monkeypatch.setattr(runner_module, "run_task", fragile_task)
    monkeypatch.setenv("RAY_ADDRESS", address)
    given: list[int] = []
    original = RayRunner.next

    def killing(self):
        given.append(len(self._tasks))
        if len(given) == 8:
            (folder / ONCE).touch()
        return original(self)

    monkeypatch.setattr(RayRunner, "next", killing)
    monkeypatch.setattr(measuring, "measure_batch", lambda *_: pytest.fail("it is attacked here"))
    assert judging(tmp_path / "e.json", "--ray=auto") == 0
    assert not (folder / ONCE).exists()
    assert figures(tmp_path / "e.json") == whole.figures
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    told = capsys.readouterr()
    assert told.err.count("a worker is lost (its process has ended), and what it had is done again: ") == 1
    rows = whole.figures["rows"]
    for row in rows:
        label, left = RowId.from_dict(row["id"]).label, 100 * row["accuracy"]
        assert re.search(rf"/{len(rows)} {label}: \d+ pictures attacked, {left:.1f} % of all are left\n", told.err)
    assert max(given) == 4
    assert str(tmp_path / "e.json") in told.out


@with_ray
def test_processes_start_before_the_pictures_are_read(cluster, judging, tmp_path, monkeypatch, capsys):
    address, _ = cluster
    monkeypatch.setattr(runner_module, "places", lambda *_: 1)

    def prepare(*_):
        wait_until(lambda: workers(address), "a worker starts")
        raise OnRayError("seen")

    wait_until(lambda: not workers(address), "the workers of the test before have ended")
    monkeypatch.setattr(evaluate_module, "prepare", prepare)
    assert judging(tmp_path / "e.json", f"--ray={address}") == 2
    assert capsys.readouterr().err == "error: seen\n"


@pytest.mark.thorough
@with_ray
@pytest.mark.parametrize("begun_on_ray", [True, False])
def test_a_run_goes_on_where_it_did_not_begin(begun_on_ray, cluster, judging, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "run_task", short_task)
    address, _ = cluster
    on_ray = [f"--ray={address}"]
    # One worker, for each takes seconds to start; several tasks are under way.
    monkeypatch.setattr(runner_module, "places", lambda *_: 1)
    counts = {"here": 0, "there": 0}
    interrupted_at = 15  # clean accuracy is twelve batches
    next_one, measure = RayRunner.next, measuring.measure_batch

    def interrupt():
        if sum(counts.values()) == interrupted_at:
            assert bool(workers(address)) == begun_on_ray
            raise KeyboardInterrupt

    def there(self):
        interrupt()
        done = next_one(self)
        counts["there"] += isinstance(done, BatchDone)
        return done

    def here(*given):
        interrupt()
        counts["here"] += 1
        return measure(*given)

    monkeypatch.setattr(RayRunner, "next", there)
    monkeypatch.setattr(measuring, "measure_batch", here)
    report = tmp_path / "e.json"
    wait_until(lambda: not workers(address), "the workers of the test before have ended")
    assert judging(report, *(on_ray if begun_on_ray else [])) == 130
    wait_until(lambda: not workers(address), "Ctrl-C ends the workers")
    saved = json.loads((tmp_path / "e.json.row").read_text())["rows"]
    in_report = json.loads(report.read_text())["rows"]
    assert sum(len(row["batches"]) for row in saved) + 6 * len(in_report) == 15
    interrupted_at = -1
    assert judging(report, *([] if begun_on_ray else on_ray)) == 0
    assert figures(report) == whole.figures
    begun, ended = ("there", "here") if begun_on_ray else ("here", "there")
    assert counts == {begun: 15, ended: whole.batches - 15}
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


CLIENT = """
import sys
from sgn_serve.common import ray_cluster
from tests.short_attacks import shorten
from tests.training.evaluate.fragile_task import stopping_task
from training.evaluate.command import main
from training.evaluate.on_ray import runner
ray_cluster.HEAD_SECONDS = 1.0
runner.run_task = stopping_task
runner.places = lambda *_: 1
shorten()
sys.exit(main())
"""

STILL = 60
"""Looks, twenty a second, after which no other batch is expected."""


@contextmanager
def client(report: Path, arguments: list[str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command on a cluster, and wait until some batches are done. It does not come to an end."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", CLIENT, *arguments, f"--report={report}", f"--ray={address}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:

            def some_are_done() -> bool:
                assert process.poll() is None, process.communicate()[1].decode()
                return saved_batches(report) >= BATCHES

            wait_until(some_are_done, "some batches are done")
            yield process
        finally:
            process.kill()


def saved_batches(report: Path) -> int:
    """Return how many batches a run that has not ended has saved: those of clean accuracy are six a row."""
    beside = Path(f"{report}.row")
    done = [row["id"] for row in json.loads(report.read_text())["rows"]] if report.exists() else []
    begun = json.loads(beside.read_text())["rows"] if beside.exists() else []
    # A row is in both files for a moment.
    return 6 * len(done) + sum(len(row["batches"]) for row in begun if row["attack"]["id"] not in done)


def wait_until_still(report: Path) -> None:
    """Wait until a run that cannot go on has saved all it has.

    Where a head goes while Ray asks it for something, Ray itself would end the command, after a minute.
    """
    found: list[int] = []

    def is_still() -> bool:
        found.append(saved_batches(report))
        return len(found) > STILL and len(set(found[-STILL:])) == 1

    wait_until(is_still, "no batch is done any more")


@pytest.mark.thorough
@with_ray
def test_a_client_that_is_killed_leaves_no_worker_and_its_report_is_made(
    cluster, judging, arguments, whole, tmp_path, monkeypatch
):
    address, _ = cluster
    report = tmp_path / "e.json"
    wait_until(lambda: not workers(address), "the workers of the test before have ended")
    with client(report, arguments, address) as process:
        assert workers(address)
        process.kill()
    wait_until(lambda: not workers(address), "the workers end with their client")
    saved = saved_batches(report)
    counts = {"there": 0}
    next_one = RayRunner.next

    def there(self):
        done = next_one(self)
        counts["there"] += isinstance(done, BatchDone)
        return done

    monkeypatch.setattr(runner_module, "run_task", short_task)
    monkeypatch.setattr(runner_module, "places", lambda *_: 1)
    monkeypatch.setattr(RayRunner, "next", there)
    assert judging(report, f"--ray={address}") == 0
    assert figures(report) == whole.figures
    assert counts["there"] == whole.batches - saved
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.thorough
@with_ray
def test_a_head_that_is_killed_ends_the_evaluation_which_goes_on(judging, arguments, whole, tmp_path):
    report = tmp_path / "e.json"
    with local_cluster({}) as address, client(report, arguments, address) as process:
        wait_until_still(report)
        kill_head(address)
        _, told = process.communicate(timeout=90)
    assert process.returncode == 2
    assert told.decode().splitlines()[-1] == (
        "error: the head of the Ray cluster does not answer any more; once it is up again, the same command goes on"
    )
    assert saved_batches(report) >= BATCHES
    assert judging(report) == 0
    assert figures(report) == whole.figures
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.thorough
@with_ray
def test_a_batch_that_ends_three_workers_ends_the_run(cluster, judging, tmp_path, capsys, monkeypatch):
    address, folder = cluster
    monkeypatch.setattr(runner_module, "run_task", fragile_task)
    (folder / EVER).touch()
    try:
        assert judging(tmp_path / "e.json", f"--ray={address}") == 2
    finally:
        (folder / EVER).unlink()
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 3 workers have ended at 4 pictures under block on: clean (its process has ended); ")


@with_ray
def test_the_code_of_a_module_goes_along(cluster, picture_folder, tmp_path, monkeypatch):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_layers.py").write_text(
        "import torch\nclass Mean(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"
    )
    (folder / "my_network.py").write_text("import my_layers\ndef build():\n    return my_layers.Mean()\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    given = [f"--module={folder / 'my_network.py'}:build", "--dataset=image-folder", f"--data-root={picture_folder}"]
    given += ["--pictures=6", "--attacks=pgd-2", "--batch-size=4"]
    assert main([*given, f"--report={tmp_path / 'one.json'}"]) == 0
    assert main([*given, f"--report={tmp_path / 'many.json'}", f"--ray={cluster[0]}", "--threads=2"]) == 0
    assert figures(tmp_path / "many.json") == figures(tmp_path / "one.json")


@with_ray
def test_a_cluster_without_room_says_so(cluster, judging, tmp_path, capsys):
    assert judging(tmp_path / "e.json", f"--ray={cluster[0]}", "--threads=64") == 2
    assert "no machine of the cluster has 64 cores for Ray; give a smaller --threads" in capsys.readouterr().err
    assert judging(tmp_path / "e.json", f"--ray={cluster[0]}", "--gpus-per-task=0.5") == 2
    assert "no machine of the cluster has 1 core and 0.5 of a GPU for Ray" in capsys.readouterr().err


@with_ray
def test_a_head_that_is_not_there_is_told_at_once(judging, tmp_path, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
        assert judging(tmp_path / "e.json", f"--ray={nowhere}") == 2
    assert capsys.readouterr().err.startswith(f"error: --ray {nowhere}: the head of the cluster cannot be reached")
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_extra_is_named(judging, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert judging(tmp_path / "e.json", "--ray=auto") == 2
    assert capsys.readouterr().err == (
        "error: --ray needs Ray, which is not installed; install it with "
        'pip install "self-gradient-networks[ray]", or leave --ray out\n'
    )


@with_ray
def test_more_answers_than_the_object_store_holds_are_all_there(cluster):
    """Ray moves them to its disk."""
    from ray._private.internal_api import memory_summary

    with connected(cluster[0]) as there:
        task = task_of(large_answer, 2, 0)
        tasks = Tasks[int](there, task.remote, Words(str, "", pytest.fail))
        for number in range(6):
            tasks.submit(number)
        wait_until(lambda: len(done(tasks)) == len(tasks), "all of them are there before the first is read")
        (spilled,) = re.findall(r"^Spilled (\d+) MiB", memory_summary(cluster[0], stats_only=True), re.MULTILINE)
        assert int(spilled) >= 90, "80 MB fit in"
        found = dict(tasks.next() for _ in range(6))
    assert {number: (len(answer), answer[:1]) for number, answer in found.items()} == {
        number: (30_000_000, bytes([number])) for number in range(6)
    }


def done(tasks: Tasks[int]) -> list[Any]:
    import ray

    found, _ = ray.wait(list(tasks._running), num_returns=len(tasks), timeout=1, fetch_local=False)
    return list(found)


def tiny(seed: int, block: bool) -> SelfGradientNetwork:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)]
    made = SelfGradientBlock(scale=8 / 255) if block else None
    return SelfGradientNetwork(nn.Sequential(*layers), made).eval().requires_grad_(False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@with_ray
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_what_is_sent_is_attacked_as_what_is_here(memory_format):
    network, other = tiny(0, True), tiny(1, False)
    images = torch.rand(6, 3, 8, 8).to(memory_format=memory_format)
    trial = Trial(network, images, network(images).argmax(dim=1), 8 / 255, seed=3, batch_size=4)
    context = Context(8 / 255, has_block=True, classes=4, transfer=SourceNetwork(other, "other", "0" * 64))
    attacks = build_attacks(["pgd-3", "apgd-ce", "noise", "transfer-from"], context)
    sent = pack(trial, attacks, graph=None, threads=1, on_gpu=False)
    sent.images.flags.writeable = False  # as in the store of a cluster
    unpacked = Unpacked(sent)
    assert unpacked._trial.images.stride() == images.stride()
    for row, attack in enumerate(attacks):
        here = measure_batch(trial, attack, (0, 2, 3, 5))
        there = unpacked.do(Batch(row, (0, 2, 3, 5)))
        assert isinstance(there, BatchResult)
        assert there.withstood == here.withstood


@with_ray
def test_a_machine_with_other_software_or_without_its_gpu_is_told(monkeypatch):
    network = tiny(0, True)
    images = torch.rand(2, 3, 8, 8)
    trial = Trial(network, images, torch.zeros(2, dtype=torch.long), 8 / 255, seed=3)
    sent = pack(trial, [], graph=None, threads=1, on_gpu=False)
    monkeypatch.setattr(subject_module, "software", lambda: {**sent.software, "torch": "0.1"})
    with pytest.raises(MachineError, match=rf"^it has torch 0\.1 and not {torch.__version__[:5]}"):
        Unpacked(sent)
    with_gpu = replace(sent, on_gpu=True, software={})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match=r"^Ray has given it a GPU, .* or pass --gpus-per-task 0$"):
        Unpacked(with_gpu)
    network.backbone.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(MachineError, match=r"^--ray: the network cannot be sent to other"):
        pack(trial, [], graph=None, threads=1, on_gpu=False)


@pytest.mark.parametrize(
    ("machine", "size", "expected"),
    [
        ({"CPU": 8.0}, TaskSize(3, 0), 2),
        ({"memory": 1.0}, TaskSize(1, 0), 0),
        ({"CPU": 8.0, "GPU": 2.0}, TaskSize(1, 1), 2),
        ({"CPU": 8.0, "GPU": 2.0}, TaskSize(1, 0.4), 4),
        ({"CPU": 8.0, "GPU": 3.0}, TaskSize(1, 2), 1),
        ({"CPU": 1.0, "GPU": 2.0}, TaskSize(1, 0.5), 1),
        ({"CPU": 8.0}, TaskSize(1, 1), 0),
    ],
)
def test_a_machine_has_room_for_what_its_cores_and_gpus_hold(machine, size, expected):
    assert places(machine, size) == expected


def test_gpus_are_used_where_there_are_any():
    with_gpu, without = (SimpleNamespace(machines=lambda found=found: [found]) for found in ({"GPU": 1.0}, {"CPU": 4}))
    sizes = [
        task_size(with_gpu, None, None, on_cpu=False),  # type: ignore[arg-type]
        task_size(with_gpu, 2, None, on_cpu=True),  # type: ignore[arg-type]
        task_size(with_gpu, None, 0.25, on_cpu=False),  # type: ignore[arg-type]
        task_size(without, None, None, on_cpu=False),  # type: ignore[arg-type]
    ]
    assert sizes == [TaskSize(1, 1), TaskSize(2, 0), TaskSize(1, 0.25), TaskSize(1, 0)]


def test_a_run_without_a_head_says_so_and_ends(monkeypatch):
    """Ray itself would wait for a minute and end the process."""
    cluster = Cluster("nowhere")
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(Cluster, "head_answers", lambda self: False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(wait=lambda *_, **__: ([], [])))
    tasks = Tasks[str](cluster, lambda work: work, Words(str, "", print))
    with pytest.raises(RayError, match=r"the head of the Ray cluster does not answer any more; once it is up"):
        tasks.next()
    assert cluster.lost


def test_gpus_per_task_are_for_ray(judging, tmp_path, capsys):
    assert judging(tmp_path / "e.json", "--gpus-per-task=1") == 2
    assert "--gpus-per-task is for --ray; give it too" in capsys.readouterr().err
    assert judging(tmp_path / "e.json", "--ray=auto", "--gpus-per-task=0.5", "--device=cpu") == 2
    assert "--gpus-per-task 0.5 and --device cpu contradict each other; pass one" in capsys.readouterr().err
