import shutil

import pytest
import torch
from PIL import Image

from tests.training.tiny_run import arguments
from training.checkpoint import load_checkpoint
from training.command import main
from training.data.loading import load_pictures
from training.data.picture_set import DatasetError
from training.loop.state import TrainerError
from training.loop.trainer import Trainer


@pytest.fixture
def mine(picture_folder, tmp_path):
    """Copy a few pictures, two of each class, to change what lies there."""
    for split in ("train", "test"):
        for name in ("blue", "green", "red"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for number in ("000.png", "001.png"):
                shutil.copy(picture_folder / split / name / number, tmp_path / "mine" / split / name)
    return tmp_path / "mine"


def test_a_tidy_folder_is_read_without_a_word(mine, capfd):
    assert len(load_pictures("image-folder", mine, "train")) == 6
    assert capfd.readouterr().err == ""


def test_what_is_passed_over_is_counted_and_named_in_one_line(mine, capfd):
    clean = load_pictures("image-folder", mine, "train")
    capfd.readouterr()
    for name in ("red/._000.png", "red/notes.txt", "red/a.psd", "green/b.psd", "labels.csv", ".DS_Store"):
        (mine / "train" / name).write_bytes(b"no picture")
    for name in (".ipynb_checkpoints", "__MACOSX", ".git", "red/.ipynb_checkpoints"):
        shutil.copytree(mine / "train" / "blue", mine / "train" / name)
    found = load_pictures("image-folder", mine, "train")
    assert found.class_names == ("blue", "green", "red")
    assert torch.equal(found.images, clean.images)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"{mine / 'train'}: skipped 2 hidden files (.DS_Store, ._000.png), "
        "3 hidden folders (.git, .ipynb_checkpoints), 1 folder of an archive program (__MACOSX), "
        "1 file outside the class folders (labels.csv), "
        "3 files without the suffix of a picture (b.psd, a.psd, notes.txt)"
    )


def test_pictures_in_the_folders_of_a_class_are_read(mine):
    (mine / "train" / "red" / "summer" / "june").mkdir(parents=True)
    (mine / "train" / "red" / "001.png").rename(mine / "train" / "red" / "summer" / "june" / "001.png")
    found = load_pictures("image-folder", mine, "train")
    assert torch.bincount(found.labels).tolist() == [2, 2, 2]


def test_every_format_that_is_served_is_read(mine):
    picture = Image.open(mine / "train" / "red" / "000.png")
    formats = ("a.gif", "a.tif", "a.tiff", "a.webp", "a.bmp", "a.jpeg", "a.ppm")
    for name in formats:
        picture.save(mine / "train" / "red" / name)
    found = load_pictures("image-folder", mine, "train")
    assert torch.bincount(found.labels).tolist() == [2, 2, 2 + len(formats)]
    first, _, bmp, gif, jpeg, ppm, tif, tiff, webp = found.images[found.labels == 2]
    for lossless in (bmp, ppm, tif, tiff):
        assert torch.equal(lossless, first)
    for lossy in (gif, jpeg, webp):
        assert (lossy.float() - first.float()).abs().mean() < 20


def test_a_class_without_readable_pictures_is_named(mine):
    for path in (mine / "train" / "green").iterdir():
        path.rename(path.with_suffix(".psd"))
    with pytest.raises(DatasetError, match=r"no file in class 'green' is a picture that can be read \(.*\.png"):
        load_pictures("image-folder", mine, "train")
    for path in (mine / "train" / "green").iterdir():
        path.rename(path.with_suffix(".jpg"))
        path.with_suffix(".jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"no picture of class 'green' can be read: .*000\.jpg: not a readable"):
        load_pictures("image-folder", mine, "train")
    shutil.copy(mine / "train" / "red" / "000.png", mine / "train" / "green")
    with pytest.raises(DatasetError) as some:
        load_pictures("image-folder", mine, "train")
    assert "no picture of class" not in str(some.value)


def test_a_single_class_is_refused(mine):
    for name in ("blue", "green"):
        shutil.rmtree(mine / "train" / name)
    with pytest.raises(DatasetError, match="only one class, 'red', but a classifier needs two; expected "):
        load_pictures("image-folder", mine, "train")
    (mine / "train" / "red" / "dark").mkdir()
    with pytest.raises(DatasetError, match=r"two; point --data-root at .*/red, if the folders in it are the classes"):
        load_pictures("image-folder", mine, "train")


def test_upright_sizes_are_compared(mine):
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("blue", "green", "red"):
        for number, size in enumerate([(12, 16), (16, 12)]):
            Image.new("RGB", size).save(mine / "train" / name / f"00{number}.png", exif=turned if number else None)
    assert load_pictures("image-folder", mine, "train").images.shape == (6, 3, 16, 12)


def test_a_missing_test_folder_is_said_at_the_start_of_training(mine, runs, capsys):
    options = ("--method=standard", "--validation-pictures=3", "--batch-size=2")
    assert main(arguments(mine, "with", *options, epochs=1)) == 0
    assert "is missing" not in capsys.readouterr().err
    shutil.rmtree(mine / "test")
    assert main(arguments(mine, "without", *options, epochs=1)) == 0
    said = capsys.readouterr().err
    assert f"{mine / 'test'} is missing" in said
    assert "training.evaluate" in said


def test_a_missing_test_folder_is_said_before_the_first_epoch(mine, runs, capsys, monkeypatch):
    said = []

    def no_epoch(trainer, *arguments):
        said.append(capsys.readouterr().err)
        raise TrainerError("no epoch today")

    monkeypatch.setattr(Trainer, "_train_epoch", no_epoch)
    shutil.rmtree(mine / "test")
    options = ("--method=standard", "--validation-pictures=3", "--batch-size=2")
    assert main(arguments(mine, "stopped", *options, epochs=1)) == 2
    assert "no epoch today" in capsys.readouterr().err
    (before,) = said
    assert f"{mine / 'test'} is missing" in before


def test_resizing_is_for_folders_of_pictures(mine):
    with pytest.raises(DatasetError, match="--resize crop is for image-folder"):
        load_pictures("cifar10", mine, "train", resize="crop")


def test_a_run_is_not_resumed_with_pictures_resized_another_way(mine, runs, capsys):
    options = ("--method=standard", "--validation-pictures=3", "--batch-size=2", "--image-size=16")
    assert main(arguments(mine, "cropped", *options, "--resize=crop", epochs=1)) == 0
    _, info = load_checkpoint(runs / "cropped" / "model.safetensors")
    assert (info.resize, info.recipe["resize"]) == ("crop", "crop")
    assert main(arguments(mine, "cropped", *options, "--resume", epochs=1)) == 2
    assert "resize (was crop, now stretch)" in capsys.readouterr().err
