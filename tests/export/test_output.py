"""A file is written in one step, or what was there stays."""

from pathlib import Path

import pytest

from export.output import UNFINISHED, OutputError, SystemRefusal, replacing


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a network")
    return path


def test_what_was_there_stays_until_all_is_written(tmp_path, checkpoint):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with replacing(target, checkpoint) as partial:
        assert {partial: target} == UNFINISHED
        partial.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    with pytest.raises(InterruptedError), replacing(target, checkpoint) as partial:
        raise InterruptedError(partial.write_bytes(b"half"))
    assert target.read_bytes() == b"new"
    assert UNFINISHED == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.safetensors"]


def test_a_signal_always_finds_the_unfinished_file(tmp_path, checkpoint, monkeypatch):
    found, touch = [], Path.touch

    def touched(path: Path) -> None:
        found.append(UNFINISHED.get(path))
        touch(path)

    monkeypatch.setattr(Path, "touch", touched)
    with replacing(tmp_path / "model.onnx", checkpoint):
        pass
    assert found == [tmp_path / "model.onnx"]


def test_a_writer_that_removes_its_file_leaves_what_was_there(tmp_path, checkpoint):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(SystemRefusal, match="No such file"), replacing(target, checkpoint) as partial:
        partial.unlink()
    assert target.read_bytes() == b"old"
    assert UNFINISHED == {}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model.safetensors", "is the checkpoint itself"),
        ("folder", "is a folder; pass the file to write, such as .*folder/model.onnx"),
        ("none/model.onnx", "its folder does not exist; create it first"),
        (f"{'x' * 255}.onnx", "cannot be written .*; pass another PATH"),
        (f"{'x' * 245}.onnx", "cannot be written .*; pass another PATH"),  # the unfinished file's name is longer
    ],
)
def test_places_that_are_refused_before_any_work(tmp_path, checkpoint, target, message):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message), replacing(tmp_path / target, checkpoint):
        pytest.fail("it went to work")
    assert checkpoint.read_bytes() == b"a network"
