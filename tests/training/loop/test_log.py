"""The log of epochs."""

import csv
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.common.files import WriteError
from training.loop.log import EpochLog, LogError


def test_a_row_for_each_epoch_in_both_forms(tmp_path):
    log = EpochLog(tmp_path, first_epoch=1)
    log.add(1, {"loss": 1.5, "lr": 0.1})
    log.add(2, {"loss": 1 / 3, "lr": 0.1})
    log.close()
    time.sleep(1.1)  # TensorBoard's files of one second have no order
    # An interrupted run had logged epoch 2, and does it again.
    log = EpochLog(tmp_path, first_epoch=2)
    log.add(2, {"loss": 0.25, "lr": 0.2})
    log.close()
    with (tmp_path / "log.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": "1.5", "lr": "0.1"},
            {"epoch": "2", "loss": "0.25", "lr": "0.2"},
        ]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.5), (2, 0.25)]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(WriteError, match="tensorboard"):
        EpochLog(tmp_path, first_epoch=1)


@pytest.mark.parametrize(
    "content",
    [
        b"epoch,loss\n1,\xcc.5\n",
        b"epoch,loss\none,0.5\n",
        b"epoch,loss\n1\n",
        b"epoch,loss\n1,0.5,0.5\n",
        b"loss\n0.5\n",
        b'epoch,loss\n1,"0.5',
    ],
)
def test_a_damaged_log_is_one_line_that_names_the_fix(content, tmp_path):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(LogError, match=r"log\.csv: damaged, or not the log of a run \(.+\); restore it from a copy"):
        EpochLog(tmp_path, first_epoch=2)
    assert (tmp_path / "log.csv").read_bytes() == content


def test_columns_of_another_version_stay(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,old\n1,0.5\n")
    log = EpochLog(tmp_path, first_epoch=2)
    log.add(2, {"loss": 1.5})
    log.close()
    with (tmp_path / "log.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "old": "0.5", "loss": ""},
            {"epoch": "2", "old": "", "loss": "1.5"},
        ]
