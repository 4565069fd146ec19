"""Training says at its start what is amiss in a folder of pictures."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from sgn_serve.pictures.folders import walk_pictures
from training.data import folder_notes as folder_notes_module
from training.data.folder_notes import folder_notes

CLASSES = ("ant", "bee")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three pictures in train/ and two in test/, all of them different."""
    shade = 0
    for part, count in (("train", 3), ("test", 2)):
        for name in CLASSES:
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade += 1
                Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / f"{number}.bmp")
    return tmp_path


def test_nothing_is_said_of_a_tidy_folder(root: Path) -> None:
    (root / "notes").mkdir()
    (root / "notes" / "read.txt").write_text("no picture")
    assert list(folder_notes(root)) == []
    assert list(folder_notes(root / "train")) == []


def test_pictures_in_both_parts_are_counted_once(root: Path) -> None:
    for name in ("0.bmp", "copy.bmp"):
        shutil.copy(root / "train" / "ant" / "0.bmp", root / "test" / "ant" / name)
    (note,) = folder_notes(root)
    assert note.startswith(
        f"{root / 'test'}: 2 of 5 pictures are in train/ too, such as test/ant/0.bmp (train/ant/0.bmp); "
    )


def test_pictures_in_several_classes_are_counted(root: Path) -> None:
    for number in range(2):
        shutil.copy(root / "train" / "bee" / f"{number}.bmp", root / "train" / "ant" / f"bee-{number}.bmp")
    shutil.copy(root / "train" / "bee" / "2.bmp", root / "train" / "bee" / "again.bmp")
    assert list(folder_notes(root)) == [
        f"{root / 'train'}: 2 pictures stand in several classes, such as ant/bee-0.bmp and bee/0.bmp; remove the wrong "
        "ones"
    ]


def test_a_link_to_the_folder_above_is_told(root: Path) -> None:
    (root / "train" / "bee" / "all").symlink_to(root / "train")
    (note,) = folder_notes(root)
    assert note.startswith(
        f"{root / 'train'}: 3 pictures stand in several classes, such as ant/0.bmp and bee/all/ant/0"
    )


def test_other_classes_to_judge_on_are_told(root: Path) -> None:
    (root / "test" / "bee").rename(root / "test" / "wasp")
    assert list(folder_notes(root)) == [
        f"{root}: train/ lacks 'wasp' and test/ lacks 'bee': training goes on, but judging refuses other classes than "
        "the network's; give both the same folders"
    ]


def test_pictures_beside_train_are_told(root: Path) -> None:
    shutil.copytree(root / "train" / "ant", root / "wasp")
    shutil.copytree(root / "test", root / "val")
    shutil.rmtree(root / "test")
    (root / "lost").mkdir()
    with pytest.MonkeyPatch.context() as patch:  # whoever runs this may read all folders
        unreadable = root / "lost"
        patch.setattr(
            folder_notes_module,
            "walk_pictures",
            lambda folder, skipped: iter([folder]) if folder == unreadable else walk_pictures(folder, skipped),
        )
        missing, beside = folder_notes(root)
    assert missing.startswith(f"{root / 'test'} is missing")
    assert beside == (
        f"{root}: pictures beside train/ and test/ are not read, those in 'val', 'wasp'; where these are classes, move "
        "them into train/"
    )


def test_a_missing_test_part_is_told(root: Path) -> None:
    shutil.rmtree(root / "test")
    (note,) = folder_notes(root)
    assert note.startswith(f"{root / 'test'} is missing: training goes on without it, but ")
