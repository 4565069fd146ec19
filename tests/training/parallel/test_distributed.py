"""Real processes that torchrun starts, against one process."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.processes import start_training
from training.command import main
from training.parallel.distributed import ALONE, DistributedError, Shard, local_device

pytestmark = pytest.mark.usefixtures("short_attacks")

ROOT = Path(__file__).parents[3]


def torchrun(*argv: str) -> subprocess.CompletedProcess[str]:
    """Runs two processes in the current folder."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training", *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def two_processes(folder: Path, *argv: str) -> tuple[list[int | None], str]:
    """Return the exit statuses of two processes as torchrun starts them in a folder, and their standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **address}
    (folder / "error.txt").write_text("")
    processes = [start_training([*argv], folder, RANK=rank, LOCAL_RANK=rank, **world) for rank in "01"]
    for process in processes:
        process.join(timeout=600)
    return [process.exitcode for process in processes], (folder / "error.txt").read_text()


def arguments(picture_folder: Path, run: str) -> list[str]:
    """Two epochs of three steps in which everything random takes part."""
    return [
        "--dataset=image-folder",
        f"--data-root={picture_folder}",
        # A --run would be taken by torchrun.
        f"--run-name={run}",
        "--method=self-gradient",
        "--attack=n-fgsm",
        "--ema-decay=0.9",
        "--epochs=2",
        "--arch=wrn-10-1",
        "--batch-size=32",
        "--lr=0.01",
        "--crop-padding=1",
        "--device=cpu",
        "--validation-pictures=12",
        "--validation-attacked=6",
        "--precision=float32",
    ]


def rows(run: str) -> list[dict[str, float]]:
    with Path(f"runs/{run}/log.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def one_thread():
    """Run with one thread, as torchrun's processes do: the number of threads decides the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.thorough
def test_two_processes_train_like_one(picture_folder, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    assert main(arguments(picture_folder, "one")) == 0
    ran = torchrun(*arguments(picture_folder, "two"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("wrote runs/two/model.safetensors") == 1
    assert "2 x cpu" in ran.stdout
    assert ran.stderr.count("images/s=") == 1
    assert sorted(os.listdir("runs/two")) == ["log.csv", "model.safetensors", "state.pt", "tensorboard"]
    one, two = rows("one"), rows("two")
    assert [row["epoch"] for row in one] == [row["epoch"] for row in two] == [1, 2]
    for mine, other in zip(one, two, strict=True):
        assert mine.keys() == other.keys()
        # Sums are rounded in another order, and the sign of a gradient near zero makes that a step of epsilon.
        # Measured: 1e-3 here and 1e-4 at a thousandth of epsilon. test_synchronised compares single steps in float64.
        assert other["train_loss"] == pytest.approx(mine["train_loss"], rel=5e-3)
        assert other["train_accuracy"] == pytest.approx(mine["train_accuracy"], abs=2.5 / 96)  # pictures
        assert other["block_correction_mean_abs"] == pytest.approx(mine["block_correction_mean_abs"], rel=0.01)

    # Two processes continue a run that one process began, and an error of one of them stops both, in one line.
    stop_after_an_epoch(monkeypatch)
    assert main(arguments(picture_folder, "parts")) == 130
    Path("runs/parts/state.pt.partial").mkdir()
    statuses, told = two_processes(tmp_path, *arguments(picture_folder, "parts"), "--resume")
    assert all(statuses)
    errors = [line for line in told.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert "runs/parts/state.pt: cannot be written (Is a directory)" in errors[0]
    assert "--resume continues after epoch 1" in errors[0]
    assert "training/loop/trainer.py" not in told, "a traceback"
    Path("runs/parts/state.pt.partial").rmdir()
    assert two_processes(tmp_path, *arguments(picture_folder, "parts"), "--resume")[0] == [0, 0]
    assert rows("parts")[1]["train_loss"] == pytest.approx(one[1]["train_loss"], rel=1e-3)


def stop_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.loop.trainer import Trainer

    epoch = Trainer._train_epoch

    def stopping(self, index, bar):
        if index == 1:
            raise KeyboardInterrupt
        return epoch(self, index, bar)

    monkeypatch.setattr(Trainer, "_train_epoch", stopping)


def test_parts_of_a_batch():
    batch = torch.arange(6)
    assert ALONE.rows(batch) is batch
    assert [Shard(rank, 3).rows(batch).tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_processes_take_their_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device("cuda:1") == torch.device("cuda:1")
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert local_device("cuda") == torch.device("cuda:1")
    assert local_device("cpu") == torch.device("cpu")
    with pytest.raises(DistributedError, match="pass --device cuda"):
        local_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DistributedError, match="2 processes but 1 GPUs; pass --nproc-per-node 1"):
        local_device("cuda")


def test_a_batch_that_does_not_divide_is_refused(picture_folder, tmp_path, monkeypatch):
    from training.options import configure, parse
    from training.train import prepare

    monkeypatch.chdir(tmp_path)
    parsed = parse(arguments(picture_folder, "a"))
    config = configure(parsed, torch.device("cpu"))
    with pytest.raises(DistributedError, match=r"--batch-size 32 does not divide by 3 processes; .*: pass 30"):
        prepare(parsed, config, torch.device("cpu"), Shard(0, 3))
    assert not Path("runs").exists()
