import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from training.data.batches import augment, batches
from training.data.loading import choose_pictures, load_pictures, split_indices
from training.data.picture_set import DatasetError, PictureSet


def test_image_folder(picture_folder):
    train = load_pictures("image-folder", picture_folder, "train")
    assert train.images.shape == (120, 3, 8, 8)
    assert train.images.dtype == torch.uint8
    assert train.class_names == ("blue", "green", "red")
    assert train.images[train.labels == 0].float().mean(dim=(0, 2, 3)).argmax() == 2
    assert load_pictures("image-folder", picture_folder, "test", image_size=8).images.shape == (24, 3, 8, 8)


def test_bad_image_folders_are_named(picture_folder, tmp_path):
    (tmp_path / "file").write_text("")
    for root, wrong in (
        (tmp_path / "none", "none: no such folder"),
        (tmp_path / "file", "file: a file, not a folder"),
        (tmp_path, f"{tmp_path.name}: no folders of classes are in it"),
    ):
        with pytest.raises(DatasetError, match=f"{wrong}; expected"):
            load_pictures("image-folder", root, "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DatasetError, match="train: no such folder"):
        load_pictures("image-folder", tmp_path, "train")
    broken = tmp_path / "train" / "cat" / "broken.png"
    broken.parent.mkdir(parents=True)
    with pytest.raises(DatasetError, match="no pictures"):
        load_pictures("image-folder", tmp_path, "train")
    whole = (picture_folder / "train" / "red" / "000.png").read_bytes()
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "whole.png").write_bytes(whole)
    broken.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match=r"broken\.png: not a readable picture"):
        load_pictures("image-folder", tmp_path, "train")
    broken.write_bytes(whole)
    for index in range(7):
        broken.with_name(f"{index}.png").write_text("no picture")
    with pytest.raises(DatasetError, match=r"0\.png: not a readable picture .*; .*1\.png: .*; and 2 more; remove"):
        load_pictures("image-folder", tmp_path, "train")


def test_pictures_that_would_fill_the_memory_are_kept_on_the_disk(picture_folder, runs, monkeypatch, capfd):
    in_memory = load_pictures("image-folder", picture_folder, "train", 12)
    assert "kept on the disk" not in capfd.readouterr().err
    half = 120 * 3 * 12 * 12
    monkeypatch.setattr("training.data.picture_folder.free_memory", lambda device: 2 * half - 1)
    mapped = load_pictures("image-folder", picture_folder, "train", 12)
    assert "120 pictures of 12x12 take 0.0 GiB, too much for the 0.0 GiB of free memory" in capfd.readouterr().err
    assert torch.equal(mapped.images, in_memory.images)
    assert "deleted" in next(line for line in Path("/proc/self/maps").read_text().splitlines() if str(runs) in line)
    assert list(runs.iterdir()) == [], "the file has no name, so that nothing is left of it"
    drawn = []
    for pictures in (in_memory, mapped):
        torch.manual_seed(0)
        drawn.append(torch.cat([images for images, _, _ in batches(pictures, torch.arange(120), 40)]))
    assert torch.equal(*drawn)
    assert mapped.channel_statistics() == in_memory.channel_statistics()


def test_pictures_that_fit_neither_memory_nor_disk_are_refused_before_they_are_decoded(
    picture_folder, runs, monkeypatch
):
    monkeypatch.setattr("training.data.picture_folder.free_memory", lambda device: 120 * 3 * 8 * 8 - 1)
    monkeypatch.setattr("training.data.picture_folder.read_rgb", lambda *_, **__: pytest.fail("decoded a picture"))
    full = shutil.disk_usage("/")._replace(free=120 * 3 * 8 * 8 - 1)
    monkeypatch.setattr("training.data.mapped_file.shutil.disk_usage", lambda path: full)
    with pytest.raises(DatasetError, match=r"120 pictures of 8x8 take .* on the disk of runs/; .*--image-size"):
        load_pictures("image-folder", picture_folder, "train")
    runs.rmdir()
    runs.write_text("a file")
    with pytest.raises(DatasetError, match=r"runs/ takes no file of .* \(File exists\); .*--image-size"):
        load_pictures("image-folder", picture_folder, "train")


def test_reading_shows_progress(picture_folder, capfd, monkeypatch):
    # Reading is quick here, so the bar must not wait.
    monkeypatch.setattr(
        "training.data.picture_folder.tqdm", lambda **options: tqdm(**options | {"delay": 0, "mininterval": 0})
    )
    load_pictures("image-folder", picture_folder, "test")
    shown = capfd.readouterr().err
    assert "checking pictures: 100%" in shown
    assert "reading pictures: 100%" in shown
    assert "24/24" in shown


def test_mixed_sizes_ask_for_a_size(picture_folder, tmp_path):
    from PIL import Image

    for name, size in (("cat", 8), ("dog", 9)):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (size, size)).save(folder / f"{size}.png")
    with pytest.raises(DatasetError, match="--image-size"):
        load_pictures("image-folder", tmp_path, "train")
    assert len(load_pictures("image-folder", tmp_path, "train", image_size=8)) == 2


def numbered(count: int, classes: int) -> PictureSet:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return PictureSet(images, torch.arange(count) % classes, tuple(str(index) for index in range(classes)))


def test_validation_part_is_balanced_disjoint_and_repeatable():
    pictures = numbered(60, 3)
    train, validation = (pictures.subset(part) for part in split_indices(pictures, 13, seed=1))
    assert torch.bincount(validation.labels).tolist() == [5, 4, 4]
    held_out = set(validation.images[:, 0, 0, 0].tolist())
    assert len(held_out) == 13
    assert held_out.isdisjoint(train.images[:, 0, 0, 0].tolist())
    assert len(train) == 47
    assert torch.equal(pictures.subset(split_indices(pictures, 13, seed=1)[1]).images, validation.images)
    assert not torch.equal(pictures.subset(split_indices(pictures, 13, seed=2)[1]).images, validation.images)


def test_too_small_a_class_is_named():
    with pytest.raises(DatasetError, match="class '0' has 4 pictures"):
        split_indices(numbered(12, 3), 12, seed=0)


def of_classes(*members: int) -> PictureSet:
    labels = torch.cat([torch.full((count,), index) for index, count in enumerate(members)])
    names = tuple(str(index) for index in range(len(members)))
    return PictureSet(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels, names)


@pytest.mark.parametrize(
    ("members", "held_out"),
    [
        ((5000,) * 10, (200,) * 10),  # CIFAR-10, as ever
        ((300, 300, 300), (30, 30, 30)),
        ((7, 6), (1, 1)),
        ((2, 2, 2), (1, 1, 1)),
        ((1000, 20), (98, 4)),  # no more than a fifth of a class
        ((4659, 13861, 13861), (667, 667, 666)),  # evenly, where each class has enough
    ],
)
def test_the_default_validation_part_follows_the_pictures(members, held_out):
    pictures = of_classes(*members)
    rest, validation = split_indices(pictures, None, seed=3)
    assert tuple(torch.bincount(pictures.labels[validation]).tolist()) == held_out
    assert sorted(torch.cat([rest, validation]).tolist()) == list(range(sum(members)))


def test_the_default_validation_part_of_a_large_data_set_is_the_one_of_2000_pictures():
    pictures = of_classes(*(2500,) * 10)
    for part, same in zip(split_indices(pictures, None, 5), split_indices(pictures, 2000, 5), strict=True):
        assert torch.equal(part, same)


def test_a_class_of_one_picture_cannot_be_validated():
    with pytest.raises(DatasetError, match=r"class '1' has 1 pictures, too few .*; give it more"):
        split_indices(of_classes(10, 1), None, 0)


def test_pictures_are_judged_as_evenly_as_the_classes_allow():
    pictures = of_classes(30, 4, 30)
    with pytest.raises(DatasetError, match="--pictures 30: a class has too few"):
        choose_pictures(pictures, 30, seed=0)
    assert Counter(choose_pictures(pictures, 30, seed=0, strict=False).labels.tolist()) == {0: 13, 1: 4, 2: 13}
    assert len(choose_pictures(pictures, 1000, seed=0, strict=False)) == 64


def test_channel_statistics():
    images = torch.stack([torch.full((3, 4, 4), value, dtype=torch.uint8) for value in (0, 255)])
    pictures = PictureSet(images, torch.zeros(2, dtype=torch.int64), ("a",))
    assert pictures.channel_statistics() == ((0.5,) * 3, (0.5,) * 3)


def test_augmentation_is_a_crop_of_the_padded_picture_mirrored_or_not():
    torch.manual_seed(0)
    picture = torch.randint(1, 256, (3, 6, 6), dtype=torch.uint8)
    results = augment(picture.expand(200, -1, -1, -1), padding=1, flip=True)
    padded = torch.nn.functional.pad(picture, (1, 1, 1, 1))
    crops = [padded[:, row : row + 6, column : column + 6] for row in range(3) for column in range(3)]
    expected = {crop.numpy().tobytes() for crop in crops} | {crop.flip(2).numpy().tobytes() for crop in crops}
    seen = {result.numpy().tobytes() for result in results}
    assert seen == expected
    unflipped = augment(picture.expand(50, -1, -1, -1), padding=0, flip=False)
    assert torch.equal(unflipped, picture.expand(50, -1, -1, -1))


def test_batches_are_whole_shuffled_and_of_the_given_pictures():
    pictures = numbered(12, 2)
    torch.manual_seed(0)
    seen = [images[:, 0, 0, 0].tolist() for images, _, _ in batches(pictures, torch.arange(1, 11), 4)]
    assert [len(batch) for batch in seen] == [4, 4]
    drawn = {number for batch in seen for number in batch}
    assert drawn <= set(range(1, 11))
    assert len(drawn) == 8
    assert seen != [[1, 2, 3, 4], [5, 6, 7, 8]]
    for images, labels, chosen in batches(pictures, torch.arange(12), 4):
        assert (images[:, 0, 0, 0] % 2 == labels).all()
        assert torch.equal(images[:, 0, 0, 0], chosen)
