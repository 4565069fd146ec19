"""Pictures from an archive."""

import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from release.gpu import pictures
from training.data.loading import load_pictures


@pytest.mark.thorough
def test_an_archive_is_read_as_the_folder_that_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PROCESSES", 2)  # each imports PyTorch
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("dog", "cat"):
            (tmp_path / "folder" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / "folder" / split / name / f"{index}.png")
    archive = tmp_path / "pictures.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        for split in ("train", "test"):
            file.add(tmp_path / "folder" / split, split)
    read = pictures.read_archive(archive, tmp_path / "unpacked")
    for split in pictures.SPLITS:
        expected = load_pictures("image-folder", tmp_path / "folder", split)
        assert read[split].class_names == expected.class_names == ("cat", "dog")
        assert torch.equal(read[split].images, expected.images)
        assert torch.equal(read[split].labels, expected.labels)


def test_a_damaged_archive_is_no_reason_to_wait(tmp_path: Path) -> None:
    (tmp_path / "damaged.tar").write_bytes(bytes(range(256)) * 400)
    with pytest.raises(subprocess.CalledProcessError, match="tar"):
        pictures.read_archive(tmp_path / "damaged.tar", tmp_path / "unpacked")
