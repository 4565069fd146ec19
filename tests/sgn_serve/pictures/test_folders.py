import os
import subprocess
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


def test_a_link_that_leads_nowhere_is_a_file_like_any_other(tmp_path):
    write(tmp_path, "a.png")
    for name, target in (("self", "self"), ("loop.png", "loop.png"), ("through.png", "a.png/x"), ("b.png", "x" * 300)):
        os.symlink(target, tmp_path / name)
    os.symlink("gone.png", tmp_path / "c.png")
    skipped = Skipped()
    names = ["a.png", "b.png", "c.png", "loop.png", "through.png"]
    assert [path.name for path in find_pictures(tmp_path, skipped)] == names
    assert [os.path.basename(path) for path in walk_pictures(tmp_path, Skipped())] == names
    assert str(skipped) == "1 file without the suffix of a picture (self)"


def test_folders_as_deep_as_a_path_may_be_are_walked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        for level in range(1500):
            os.mkdir("d")
            if level in (0, 900):
                write(Path(), "d/1.png")
            os.chdir("d")
        os.chdir(tmp_path)
        found = [path.count("/") for path in walk_pictures(Path(), Skipped())]
        assert found == [1, 901]
        assert found == [len(path.parts) - 1 for path in find_pictures(Path(), Skipped())]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil.rmtree goes no deeper than its recursion


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


def test_a_name_cannot_draw_on_the_terminal(tmp_path):
    (tmp_path / "a\n\x1b[31mü.doc").write_bytes(b"")
    skipped = Skipped()
    assert find_pictures(tmp_path, skipped) == []
    assert str(skipped) == "1 file without the suffix of a picture (a\\n\\x1b[31mü.doc)"
