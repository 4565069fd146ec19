import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from PIL import Image

from export.check.pictures import PicturesError, pictures_in, pictures_under, structured_pictures, unseen_pictures
from tests.training.checkpoints import tiny_info
from training.data.automatic_split import AutomaticSplit


def test_made_up_pictures_are_in_range_and_repeatable() -> None:
    pictures = structured_pictures(5, 3, (24, 32), seed=1)
    assert pictures.shape == (5, 3, 24, 32)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, structured_pictures(5, 3, (24, 32), seed=1))
    assert not torch.equal(pictures, structured_pictures(5, 3, (24, 32), seed=2))


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name, colour in (("b.png", (255, 0, 0)), ("a.jpg", (0, 0, 255)), ("c.png", (0, 255, 0))):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("file,label\n")

    pictures = pictures_in(tmp_path, 2, (16, 16))

    assert pictures.shape == (2, 3, 16, 16)
    torch.testing.assert_close(pictures.mean(dim=(2, 3)), torch.eye(3)[[2, 0]], rtol=0, atol=0.02)


def test_what_is_no_folder_of_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match=r"missing: no such folder"):
        pictures_in(tmp_path / "missing", 2, (16, 16))
    with pytest.raises(PicturesError, match="0 pictures, at least 2"):
        pictures_in(tmp_path, 2, (16, 16))
    (tmp_path / "cat").mkdir()
    with pytest.raises(PicturesError, match=r"folders in it are not searched: name one of them, such as .*/cat$"):
        pictures_in(tmp_path, 2, (16, 16))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(PicturesError, match=r"broken\.png: not a picture"):
        pictures_in(tmp_path, 1, (16, 16))


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    info = tiny_info(class_names=("a", "b"), split=AutomaticSplit(bounds=("5", "5")))
    message = f"{tmp_path}.*: Permission denied; make it readable, or name another folder"
    (tmp_path / "a.png").write_bytes(b"a file")
    with pytest.raises(PicturesError, match=message):
        pictures_under(tmp_path, 1, (16, 16), wanted=refuse)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PicturesError, match=message):
        pictures_in(tmp_path, 2, (16, 16))
    with pytest.raises(PicturesError, match=message):
        unseen_pictures(tmp_path, 2, info)
