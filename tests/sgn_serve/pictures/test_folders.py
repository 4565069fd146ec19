import os
from pathlib import Path

import pytest

from sgn_serve.pictures.folders import Skipped, find_pictures, walk_pictures


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_pictures_of_sub_folders_are_found_in_the_order_of_names(tmp_path):
    write(tmp_path, "b.png", "a/2.JPG", "a/1.tiff", "a/deep/0.gif", "c.webp")
    found = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path, Skipped())]
    assert found == ["a/1.tiff", "a/2.JPG", "a/deep/0.gif", "b.png", "c.webp"]
    assert [path.name for path in find_pictures(tmp_path, Skipped(), recursive=False)] == ["b.png", "c.webp"]


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    write(tmp_path, "a.png", "._a.png", ".DS_Store", "notes.txt", "b.psd", "c.svg", "d.svg", "c/notes.txt")
    write(tmp_path, "__MACOSX/a.png", ".ipynb_checkpoints/a.png", "c/.cache/a.png")
    skipped = Skipped()
    assert [path.name for path in find_pictures(tmp_path, skipped)] == ["a.png"]
    assert str(skipped) == (
        "2 hidden files (.DS_Store, ._a.png), 2 hidden folders (.ipynb_checkpoints, .cache), "
        "1 folder of an archive program (__MACOSX), "
        "5 files without the suffix of a picture (b.psd, notes.txt, c.svg, ...)"
    )


def test_nothing_passed_over_is_nothing_to_say(tmp_path):
    write(tmp_path, "a.png")
    skipped = Skipped()
    find_pictures(tmp_path, skipped)
    assert str(skipped) == ""


def test_a_link_back_is_not_followed_for_ever(tmp_path):
    write(tmp_path, "cats/a.png", "elsewhere/b.png")
    os.symlink(tmp_path / "cats", tmp_path / "cats" / "again")
    os.symlink(tmp_path / "elsewhere", tmp_path / "cats" / "more")
    assert [path.name for path in find_pictures(tmp_path / "cats", Skipped())] == ["a.png", "b.png"]


@pytest.mark.parametrize("place", [".", "./p", "p//q/", "..", "p/../p"])
def test_names_are_those_of_pathlib(tmp_path, monkeypatch, place):
    write(tmp_path, "here/1.png", "here/p/2.png", "here/p/q/3.PNG", "here/p/x..png", "4.png")
    monkeypatch.chdir(tmp_path / "here")
    folder = Path(place)
    pictures = [path for path in folder.rglob("*") if path.suffix.lower() == ".png"]
    found = list(walk_pictures(folder, Skipped()))
    assert sorted(found) == sorted(map(str, pictures))
    assert found == [str(path) for path in find_pictures(folder, Skipped())]
    assert found


def test_a_name_that_is_not_utf_8_stays(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    assert [os.fsencode(path) for path in walk_pictures(tmp_path, Skipped())] == [os.fsencode(tmp_path) + b"/\xff.png"]
