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
    ("content", "reason"),
    [
        (b"epoch,loss\n1,\xcc.5\n", "invalid continuation byte"),
        (b"epoch,loss\none,0.5\n", "'one'"),
        (b"epoch,loss\n1\n", "the row of epoch 1 has another number of columns"),
        (b"epoch,loss\n1,0.5,0.5\n", "the row of epoch 1 has another number of columns"),
        (b"epoch,loss\n1,much\n", "could not convert string to float: 'much'"),
        (b"loss\n0.5\n", "its first line names no column epoch"),
        (b"\xef\xbb\xbfepoch;loss\n1;0.5\n", "its first line names no column epoch"),
        (b'epoch,loss\n1,"0.5', "unexpected end of data"),
        (b"", "it lacks epoch 3"),
        (b"epoch,loss\n", "it lacks epoch 3"),
        (b"\0" * 700, ""),
        (b"epoch,loss\n1,0.5\n2,0.5\n", "it lacks epoch 3"),
        (b"epoch,loss\n1,0.5\n3,0.5\n", "the row of epoch 3 comes after that of epoch 1"),
        (b"epoch,loss\n1,0.5\n2,0.5\n2,0.5\n3,0.5\n", "the row of epoch 2 comes after that of epoch 2"),
        (b"epoch,loss\n2,0.5\n1,0.5\n3,0.5\n", "the row of epoch 1 comes after that of epoch 2"),
        (b"epoch,loss\n0,0.5\n1,0.5\n2,0.5\n3,0.5\n", "the row of epoch 0 comes after that of epoch 0"),
    ],
)
def test_a_damaged_log_is_one_line_that_names_the_fix(content, reason, tmp_path):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(LogError, match=r"log\.csv: damaged, or not the log of this run \(.+\); restore it") as raised:
        EpochLog(tmp_path, first_epoch=4)
    assert reason in str(raised.value)
    assert (tmp_path / "log.csv").read_bytes() == content


def test_a_folder_in_the_place_of_the_log_is_told(tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(LogError, match=r"log\.csv cannot be read: Is a directory; move it away"):
        EpochLog(tmp_path, first_epoch=1)


def test_a_log_may_begin_after_the_first_epoch_or_end_later_than_the_state(tmp_path):
    """A removed log is begun anew in the middle. A kill leaves the row of an epoch that is done again."""
    (tmp_path / "log.csv").write_text("epoch,loss\n3,0.5\n4,0.25\n5,0.125\n")
    log = EpochLog(tmp_path, first_epoch=5)
    log.add(5, {"loss": 1.5})
    log.close()
    assert (tmp_path / "log.csv").read_text().split() == ["epoch,loss", "3,0.5", "4,0.25", "5,1.5"]


def test_a_log_with_other_columns_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,old\n1,0.5\n")
    log = EpochLog(tmp_path, first_epoch=2)
    with pytest.raises(LogError, match=r"\(it has other columns: loss, old\); restore it from a copy, or remove it"):
        log.add(2, {"loss": 1.5})
    log.close()
    assert (tmp_path / "log.csv").read_text() == "epoch,old\n1,0.5\n"


def test_a_row_without_a_figure_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,loss\n1,\n")
    with pytest.raises(LogError, match="could not convert string to float"):
        EpochLog(tmp_path, first_epoch=2)
