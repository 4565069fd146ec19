"""A time budget: the learning-rate schedule over elapsed time, its end, and resuming within it."""

import pytest
import torch

from tests.training.tiny_run import arguments, failure, rows
from training.checkpoint import load_checkpoint
from training.command import main
from training.config import TrainConfig
from training.data.picture_set import PictureSet
from training.loop import trainer
from training.loop.state import Progress
from training.parallel.distributed import Shard
from training.train import describe

pytestmark = pytest.mark.usefixtures("short_attacks")


class Clock:
    """Stands in for the module time in the trainer: every look takes `tick` seconds."""

    def __init__(self, tick: float):
        self.now, self.tick = 1000.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now

    def process_time(self) -> float:
        return self.now


def test_a_time_budget_lays_the_schedule_over_the_minutes(picture_folder, runs, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "time", Clock(tick=1.0))
    options = arguments(picture_folder, "timed", "--method=standard", "--lr=0.1", "--lr-warmup=0.5", "--minutes=0.5")
    assert main(options) == 0
    assert "float32 on cpu, 0.5 minutes\n" in capsys.readouterr().out
    log = rows(runs / "timed")
    # Three steps an epoch, and a few looks at the clock around them: half a minute is over after some epochs.
    assert 2 < len(log) < 10
    rates = [float(row["lr"]) for row in log]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) > 0.08
    assert 0 <= rates[-1] < 0.02
    assert float(log[-1]["wall_seconds"]) <= 32
    _, info = load_checkpoint(runs / "timed" / "model.safetensors")
    assert info.recipe["minutes"] == 0.5


class BusyClock(Clock):
    """The clock of a machine on which others work: a look takes a minute on the clock, and 0.1 s of a core."""

    def __init__(self):
        super().__init__(tick=60.0)
        self.core = 0.0

    def process_time(self) -> float:
        self.core += 0.1
        return self.core


def test_a_budget_of_core_minutes_does_not_count_what_others_do(picture_folder, runs, monkeypatch):
    monkeypatch.setattr(trainer, "time", BusyClock())
    options = arguments(picture_folder, "busy", "--method=standard", "--minutes=0.5", "--minutes-of=core")
    assert main(options) == 0
    log = rows(runs / "busy")
    assert 2 <= len(log) < 60
    assert 20 < float(log[-1]["core_seconds"]) <= 32
    assert float(log[-1]["wall_seconds"]) > 120
    rates = [float(row["lr"]) for row in log]
    assert 0 <= rates[-1] < 0.02
    assert main([*options, "--resume"]) == 0
    assert rows(runs / "busy") == log


def test_resuming_a_finished_time_budget_says_that_nothing_was_left(picture_folder, runs, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "time", Clock(tick=1.0))
    options = arguments(picture_folder, "timed", "--method=standard", "--minutes=0.5")
    assert main(options) == 0
    log = rows(runs / "timed")
    capsys.readouterr()
    network = (runs / "timed" / "model.safetensors").read_bytes()
    assert main([*options, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert f"all {len(log)} epochs are done" in printed
    assert "nothing was left to train; the network is runs/timed/model.safetensors" in printed
    assert "wrote" not in printed
    assert rows(runs / "timed") == log
    assert (runs / "timed" / "model.safetensors").read_bytes() == network
    (runs / "timed" / "model.safetensors").unlink()
    assert "model.safetensors is missing, which holds the epoch that was kept" in failure(
        capsys, [*options, "--resume"]
    )


def test_an_interrupted_time_budget_goes_on_where_it_was(picture_folder, runs, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "time", Clock(tick=1.0))
    options = arguments(picture_folder, "timed", "--method=standard", "--minutes=0.5")
    epoch = trainer.Trainer._train_epoch

    def stopping(self, index, bar):
        if index == 2:
            raise KeyboardInterrupt
        return epoch(self, index, bar)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_epoch", stopping)
        assert main(options) == 130
    used = float(rows(runs / "timed")[-1]["wall_seconds"]) / 60
    capsys.readouterr()
    assert main([*options, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert f"0.5 minutes, of which {used:.1f} are used" in printed
    assert "wrote runs/timed/model.safetensors" in printed
    assert len(rows(runs / "timed")) > 2


@pytest.fixture
def of_core(tmp_path) -> trainer.Trainer:
    """The first of two processes of a training with a budget of a minute of a core, half of which is used."""
    config = TrainConfig(
        arch="wrn-10-1", method="standard", batch_size=4, validation_pictures=4, minutes=1.0, minutes_of="core"
    )
    images = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8)
    pictures = PictureSet(images, torch.arange(16) % 2, ("a", "b"))
    made = trainer.Trainer(config, pictures, tmp_path, torch.device("cpu"), shard=Shard(0, 2))
    made.progress = Progress(epoch=1, wall_seconds=600.0, core_seconds=30.0)
    return made


def test_the_first_line_tells_the_used_time_that_the_budget_counts(of_core):
    assert describe(of_core).endswith(", 1 minutes of a core, of which 0.5 are used")


def test_the_time_left_of_a_core_budget_falls_by_what_all_processes_use(of_core, monkeypatch):
    clock = BusyClock()
    monkeypatch.setattr(clock, "process_time", lambda: clock.core)
    monkeypatch.setattr(trainer, "time", clock)
    left = of_core._time_left()
    assert left.seconds() == 30
    clock.core += 4
    assert left.seconds() == pytest.approx(30 - 2 * 4)
