import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from training.data import DatasetError, PictureSet, augment, batches, load_pictures, split_validation


def write_cifar(root: Path, hundred: bool) -> np.ndarray:
    """A small archive in CIFAR's own format; returns the test pictures (N, 3, 32, 32)."""
    rng = np.random.default_rng(0)
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    key = "fine_labels" if hundred else "labels"
    names = ["train", "test"] if hundred else [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]
    for name in names:
        data = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        with (folder / name).open("wb") as file:
            pickle.dump({"data": data, key: [index % 10 for index in range(20)]}, file)
    classes = [f"class{index}" for index in range(100 if hundred else 10)]
    meta, meta_key = ("meta", "fine_label_names") if hundred else ("batches.meta", "label_names")
    with (folder / meta).open("wb") as file:
        pickle.dump({meta_key: classes}, file)
    return data.reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_cifar_archives(dataset, tmp_path, monkeypatch):
    pictures = write_cifar(tmp_path, dataset == "cifar100")
    from torchvision import datasets

    # The only thing a small archive cannot have is the real one's checksum.
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    test = load_pictures(dataset, tmp_path, "test")
    assert np.array_equal(test.images.numpy(), pictures)
    assert test.labels.tolist() == [index % 10 for index in range(20)]
    assert test.class_names[3] == "class3"
    assert len(load_pictures(dataset, tmp_path, "train")) == (20 if dataset == "cifar100" else 100)


def test_svhn_archive(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (32, 32, 3, 10), dtype=np.uint8)
    # SVHN's files call zero ten.
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pictures, "y": np.arange(1, 11, dtype=np.uint8)[:, None]})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    test = load_pictures("svhn", tmp_path, "test")
    assert np.array_equal(test.images[4].numpy(), pictures[:, :, :, 4].transpose(2, 0, 1))
    assert test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn"])
def test_a_missing_archive_says_what_to_get(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"no complete .*; expected .*https?://.*--data-root"):
        load_pictures(dataset, tmp_path, "test")


def test_image_folder(picture_folder):
    train = load_pictures("image-folder", picture_folder, "train")
    assert train.images.shape == (120, 3, 16, 16)
    assert train.images.dtype == torch.uint8
    assert train.class_names == ("blue", "green", "red")
    assert train.images[train.labels == 0].float().mean(dim=(0, 2, 3)).argmax() == 2
    assert load_pictures("image-folder", picture_folder, "test", image_size=8).images.shape == (24, 3, 8, 8)


def test_bad_image_folders_are_named(picture_folder, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        load_pictures("image-folder", tmp_path, "train")
    broken = tmp_path / "train" / "cat" / "broken.png"
    broken.parent.mkdir(parents=True)
    with pytest.raises(DatasetError, match="no pictures"):
        load_pictures("image-folder", tmp_path, "train")
    broken.write_bytes((picture_folder / "train" / "red" / "000.png").read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"broken\.png: not a readable picture"):
        load_pictures("image-folder", tmp_path, "train")


def test_mixed_sizes_ask_for_a_size(picture_folder, tmp_path):
    from PIL import Image

    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    for size in (8, 9):
        Image.new("RGB", (size, size)).save(folder / f"{size}.png")
    with pytest.raises(DatasetError, match="--image-size"):
        load_pictures("image-folder", tmp_path, "train")
    assert len(load_pictures("image-folder", tmp_path, "train", image_size=8)) == 2


def numbered(count: int, classes: int) -> PictureSet:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return PictureSet(images, torch.arange(count) % classes, tuple(str(index) for index in range(classes)))


def test_validation_part_is_balanced_disjoint_and_repeatable():
    pictures = numbered(60, 3)
    train, validation = split_validation(pictures, 13, seed=1)
    assert torch.bincount(validation.labels).tolist() == [5, 4, 4]
    held_out = set(validation.images[:, 0, 0, 0].tolist())
    assert len(held_out) == 13
    assert held_out.isdisjoint(train.images[:, 0, 0, 0].tolist())
    assert len(train) == 47
    assert torch.equal(split_validation(pictures, 13, seed=1)[1].images, validation.images)
    assert not torch.equal(split_validation(pictures, 13, seed=2)[1].images, validation.images)


def test_too_small_a_class_is_named():
    with pytest.raises(DatasetError, match="class '0' has 4 pictures"):
        split_validation(numbered(12, 3), 12, seed=0)


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
    seen = [images[:, 0, 0, 0].tolist() for images, _ in batches(pictures, torch.arange(1, 11), 4)]
    assert [len(batch) for batch in seen] == [4, 4]
    drawn = {number for batch in seen for number in batch}
    assert drawn <= set(range(1, 11))
    assert len(drawn) == 8
    assert seen != [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert all((images[:, 0, 0, 0] % 2 == labels).all() for images, labels in batches(pictures, torch.arange(12), 4))
