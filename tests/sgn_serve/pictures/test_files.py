import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from release.hostile.structures import png_chunk
from sgn_serve.pictures.errors import NotAnImage
from sgn_serve.pictures.files import read_rgb, read_size
from tests.sgn_serve.odd_pictures import odd_pictures
from tests.sgn_serve.sample_pictures import encode, noise


def test_a_file_and_its_content_are_read_alike(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(6, 4)).save(path)
    assert np.array_equal(read_rgb(path, None), noise(6, 4))
    assert np.array_equal(read_rgb(path.read_bytes(), None), noise(6, 4))
    assert read_rgb(path, (3, 9)).shape == (3, 9, 3)
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "none.png", None)
    with pytest.raises(NotAnImage, match="PPM"):
        read_rgb(b"no picture", None)


@pytest.mark.parametrize("reader", [lambda path: read_rgb(path, None), read_size])
def test_a_pipe_and_a_device_are_no_pictures(tmp_path, reader):
    """Reading the one would wait for ever, and the other would never end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):
        with pytest.raises(OSError, match="no ordinary file"):
            reader(tmp_path / name)


def test_the_size_is_that_of_the_upright_picture():
    for picture in odd_pictures(noise(12, 10)):
        assert read_size(picture.data) == (12, 10), picture.name


def test_the_size_of_a_png_whose_orientation_follows_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = encode(Image.fromarray(noise(6, 4)))
    end = picture.index(b"IEND") - 4
    turned = picture[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + picture[end:]
    assert read_rgb(turned, None).shape == (4, 6, 3)
    assert read_size(turned) == (4, 6)
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "upright")
    assert read_size(encode(Image.fromarray(noise(6, 4)), pnginfo=info)) == (6, 4)


def test_portable_pixmaps_are_read():
    greys = np.array([[0, 257, 30 * 257, 65535]], np.uint16)
    deep = b"P5 4 1 65535\n" + greys.astype(">u2").tobytes()
    assert read_rgb(deep, None)[0, :, 0].tolist() == [0, 1, 30, 255]
    assert np.array_equal(read_rgb(encode(Image.fromarray(noise()), "PPM"), None), noise())
