import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.training.archives import pack_cifar, write_cifar, write_svhn
from training.checkpoint import load_checkpoint
from training.command import main
from training.data.loading import load_pictures
from training.data.picture_set import DatasetError
from training.evaluate import command

pytestmark = pytest.mark.usefixtures("short_attacks")


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tarball"])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(classes, packed, tmp_path, monkeypatch):
    pictures = write_cifar(tmp_path, monkeypatch, classes, per_class=2)
    if packed:
        pack_cifar(tmp_path)
    before = sorted(os.listdir(tmp_path))
    test = load_pictures(f"cifar{classes}", tmp_path, "test")
    assert np.array_equal(test.images.numpy(), pictures)
    assert test.labels.tolist() == [index % classes for index in range(2 * classes)]
    assert test.class_names == tuple(f"class{index}" for index in range(classes))
    assert len(load_pictures(f"cifar{classes}", tmp_path, "train")) == (200 if classes == 100 else 100)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_unpacked_folder_itself_will_do(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, 10, per_class=1)
    assert len(load_pictures("cifar10", tmp_path / "cifar-10-batches-py", "test")) == 10


def test_svhn(tmp_path, monkeypatch):
    pictures = write_svhn(tmp_path, monkeypatch, per_class=2)
    test = load_pictures("svhn", tmp_path, "test")
    assert np.array_equal(test.images.numpy(), pictures)
    assert test.labels.tolist() == [*range(10), *range(10)]
    assert test.images.is_contiguous()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn"])
def test_a_missing_archive_says_what_to_get_and_from_where(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"no complete .*; expected .*https?://.*--data-root") as caught:
        load_pictures(dataset, tmp_path, "test")
    assert "\n" not in str(caught.value)
    assert "image-folder" not in str(caught.value)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.JPG").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"; to read its folders of pictures, --dataset image-folder$"):
        load_pictures(dataset, tmp_path, "test")


def test_damaged_archives_are_refused(tmp_path, monkeypatch):
    write_cifar(tmp_path / "a", monkeypatch, 10, per_class=1)
    file = tmp_path / "a" / "cifar-10-batches-py" / "data_batch_3"
    damaged = bytearray(file.read_bytes())
    damaged[500] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(DatasetError, match="not found or corrupted"):
        load_pictures("cifar10", tmp_path / "a", "test")
    pack_cifar(tmp_path / "a")
    with pytest.raises(DatasetError, match="not found or corrupted"):
        load_pictures("cifar10", tmp_path / "a", "test")
    tarball = tmp_path / "a" / "cifar-10-python.tar.gz"
    tarball.write_bytes(tarball.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r"no complete cifar10 here \(.+\); expected cifar-10-python.tar.gz"):
        load_pictures("cifar10", tmp_path / "a", "test")
    write_svhn(tmp_path / "b", monkeypatch, per_class=1)
    (tmp_path / "b" / "test_32x32.mat").write_bytes(b"short")
    with pytest.raises(DatasetError, match="not found or corrupted"):
        load_pictures("svhn", tmp_path / "b", "test")


def train_and_judge(dataset: str, root: Path, *more: str, evaluation: tuple[str, ...] = ()) -> dict:
    """The whole way through the command line, in the current folder; returns the report."""
    common = [f"--dataset={dataset}", f"--data-root={root}", "--device=cpu"]
    options = ["--arch=wrn-10-1", "--run=a", "--lr-schedule=cyclic", "--precision=float32", *more]
    assert main([*common, *options]) == 0
    checkpoint = "runs/a/model.safetensors"
    judged = [f"--ckpt={checkpoint}", f"--data-root={root}", "--device=cpu", "--attacks=fgsm", *evaluation]
    assert command.main(judged) == 0
    return json.loads(Path("runs/a/evaluation.json").read_text())


def losses() -> list[float]:
    with Path("runs/a/log.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_cifar100_from_archive_to_report(tmp_path, monkeypatch, capsys):
    write_cifar(tmp_path / "data", monkeypatch, 100, per_class=3)
    pack_cifar(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    options = ("--method=standard", "--epochs=2", "--batch-size=50", "--lr=0.05")
    held_out = ("--validation-pictures=100", "--validation-attacked=10")
    report = train_and_judge("cifar100", tmp_path / "data", *options, *held_out, evaluation=("--pictures=20",))
    assert report["setting"]["data"] == "cifar100"
    assert report["setting"]["pictures"] == 20
    first, last = losses()
    # An untrained network of 100 classes is at log(100).
    assert 5.5 > first > last
    model, info = load_checkpoint(Path("runs/a/model.safetensors"))
    assert len(info.class_names) == model.backbone.get_submodule("classifier").out_features == 100
    # Pictures of another class count are refused before any is attacked.
    write_cifar(tmp_path / "ten", monkeypatch, 10, per_class=2)
    capsys.readouterr()
    ten = ["--ckpt=runs/a/model.safetensors", "--dataset=cifar10", f"--data-root={tmp_path / 'ten'}", "--device=cpu"]
    ten.append("--report=ten.json")
    assert command.main(ten) == 2
    error = capsys.readouterr().err
    assert re.search(r"cifar10 with 10 classes .*, but the checkpoint is for 100 classes .*; give the --dataset", error)


def test_svhn_from_archive_to_report(tmp_path, monkeypatch):
    write_svhn(tmp_path / "data", monkeypatch, per_class=12)
    monkeypatch.chdir(tmp_path)
    options = ("--method=standard", "--epochs=6", "--batch-size=32", "--lr=0.1")
    held_out = ("--validation-pictures=20", "--validation-attacked=10")
    report = train_and_judge("svhn", tmp_path / "data", *options, *held_out, evaluation=("--pictures=20",))
    assert report["setting"]["data"] == "svhn"
    first, *_, last = losses()
    assert last < first
    _, info = load_checkpoint(Path("runs/a/model.safetensors"))
    assert info.class_names == tuple("0123456789")
    assert info.recipe["flip"] is False
