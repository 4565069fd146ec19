"""Resuming on an undivided folder whose files changed: the run goes on to the same result, or one line refuses it."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.loop.test_resuming import assert_same_run
from tests.training.tiny_run import failure
from training.checkpoint import load_checkpoint
from training.command import main
from training.data import picture_folder as reading
from training.data.automatic_split import AutomaticSplit
from training.loop.validation import Validation

pytestmark = pytest.mark.usefixtures("short_attacks")

PICTURES = 20


def draw(path: Path, seed: int) -> None:
    """Write a picture of its own size."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(16, 40, 2)
    colour = generator.integers(0, 200, 3) + generator.integers(0, 50, (height, width, 3))
    Image.fromarray(colour.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of nothing but class folders, with pictures of mixed sizes."""
    root = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for number in range(PICTURES):
            draw(root / name / f"{number:03}.png", seed=100 * index + number)
    return root


def arguments(root: Path, *more: str) -> list[str]:
    return [
        f"--data-root={root}",
        "--run=photos",
        "--epochs=2",
        "--arch=wrn-10-1",
        "--method=standard",
        "--batch-size=8",
        "--image-size=16",
        "--precision=float32",
        "--device=cpu",
        *more,
    ]


@pytest.fixture(scope="module")
def uninterrupted(photos, tmp_path_factory, short_attacks):
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(folder):
        assert main(arguments(photos)) == 0
    return folder / "runs" / "photos"


@pytest.fixture
def interrupted(photos, runs, tmp_path, monkeypatch):
    """A copy of the folder, on which a run was interrupted in its first validation."""
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "measure", stop)
        assert main(arguments(copy)) == 130
    return copy


def in_part(part: str, folder: Path) -> Path:
    """Return the first picture of a folder's class "cat" that the automatic split puts into a part."""
    split = AutomaticSplit(0.2, 0)
    paths = sorted((folder / "cat").iterdir())
    bound = split.bound(split.keys(paths))
    return next(path for path in paths if (split.key(path) <= bound) == (part == "test"))


def test_the_same_folder_goes_on_to_the_same_result(interrupted, uninterrupted, runs, capsys):
    assert main(arguments(interrupted, "--resume")) == 0
    assert "divided as the checkpoint's training did" in capsys.readouterr().err
    assert_same_run(uninterrupted, runs / "photos")
    _, info = load_checkpoint(runs / "photos" / "model.safetensors")
    assert info.split is not None


def test_files_renamed_in_their_order_change_nothing(interrupted, uninterrupted, runs):
    for path in sorted(interrupted.rglob("*.png")):
        path.rename(path.with_name(f"photo {path.name}"))
    assert main(arguments(interrupted, "--resume")) == 0
    assert_same_run(uninterrupted, runs / "photos")


def test_files_renamed_into_another_order_are_refused(interrupted, runs, capsys):
    first = in_part("train", interrupted)
    first.rename(first.with_name("999.png"))
    error = failure(capsys, arguments(interrupted, "--resume"))
    assert error == (
        "error: runs/photos/state.pt belongs to a run on other pictures (32 of 2 classes then and now, but other ones, "
        "or in another order because files were renamed); give the --data-root that it was started with, or start "
        "under another --run"
    )


def test_a_picture_that_was_replaced_is_refused(interrupted, runs, capsys):
    # The mean of all pictures hides a single pixel.
    path = in_part("train", interrupted)
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 255 - pixels[0, 0]
    Image.fromarray(pixels).save(path)
    assert "belongs to a run on other pictures (" in failure(capsys, arguments(interrupted, "--resume"))


def test_an_added_training_picture_is_refused(interrupted, runs, tmp_path, capsys):
    split = AutomaticSplit(0.2, 0)
    paths = sorted((interrupted / "cat").iterdir())
    bound = split.bound(split.keys(paths))
    for seed in range(1000, 1100):
        draw(tmp_path / "new.png", seed)
        if split.key(tmp_path / "new.png") > bound:
            break
    shutil.copy(tmp_path / "new.png", interrupted / "cat" / "new.png")
    error = failure(capsys, arguments(interrupted, "--resume"))
    assert "belongs to a run on other pictures (32 of 2 classes, now 33 of 2); give the --data-root" in error


def test_an_added_or_removed_test_picture_changes_nothing(interrupted, uninterrupted, runs):
    in_part("test", interrupted).unlink()
    assert main(arguments(interrupted, "--resume")) == 0
    assert_same_run(uninterrupted, runs / "photos")


def test_another_class_folder_is_refused(interrupted, runs, capsys):
    shutil.copytree(interrupted / "dog", interrupted / "wolf")
    error = failure(capsys, arguments(interrupted, "--resume"))
    assert "image-folder with 3 classes (cat, dog, wolf), but the checkpoint is for 2 classes (cat, dog)" in error


def test_another_test_share_is_refused(interrupted, runs, capsys):
    error = failure(capsys, arguments(interrupted, "--resume", "--test-share=0.3"))
    assert "other settings: test_share (was 0.2, now 0.3)" in error


@pytest.mark.parametrize("mapped", ["started", "resumed"])
def test_pictures_on_the_disk_and_in_memory_give_the_same_run(mapped, photos, uninterrupted, runs, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    def on_disk(patch):
        patch.setattr(reading, "_IN_MEMORY", 0.0)

    with monkeypatch.context() as patch:
        if mapped == "started":
            on_disk(patch)
        patch.setattr(Validation, "measure", stop)
        assert main(arguments(photos)) == 130
        assert ("so they are kept on the disk" in capsys.readouterr().err) == (mapped == "started")
    with monkeypatch.context() as patch:
        if mapped == "resumed":
            on_disk(patch)
        assert main(arguments(photos, "--resume")) == 0
        assert ("so they are kept on the disk" in capsys.readouterr().err) == (mapped == "resumed")
    assert_same_run(uninterrupted, runs / "photos")
    assert [path.name for path in runs.iterdir()] == ["photos"]
