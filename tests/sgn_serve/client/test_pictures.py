"""Test what the client makes of the pictures that programs hold."""

import io

import numpy as np
import pytest
from PIL import Image

from sgn_serve.client.pictures import picture_file
from sgn_serve.pictures.decoding import decode
from tests.sgn_serve.sample_pictures import encode

NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_files_are_sent_as_they_are(tmp_path):
    content = encode(Image.fromarray(NOISE), "JPEG")
    path = tmp_path / "größe.jpg"
    path.write_bytes(content)
    assert picture_file(path) == picture_file(str(path)) == ("größe.jpg", content)
    assert picture_file(content).content == picture_file(bytearray(content)).content == content
    assert picture_file(memoryview(content)).content == content
    with path.open("rb") as opened:
        assert picture_file(opened).content == content


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_keep_their_pixels(dtype):
    assert np.array_equal(pixels(picture_file(NOISE).content), NOISE)
    assert np.array_equal(pixels(picture_file(NOISE[:, ::-1]).content), NOISE[:, ::-1])
    assert np.array_equal(pixels(picture_file((NOISE / 255).astype(dtype)).content), NOISE)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (NOISE[..., 0], r"\(H, W, 3\), RGB, not \(6, 9\)"),
        (NOISE.transpose(2, 0, 1), "transpose it"),
        (NOISE[None], "list of the pictures"),
        (NOISE[:0], r"\(0, 9, 3\)"),
        (NOISE.astype(np.float32), "as uint8"),
        (NOISE / 255 - 0.5, "normalises"),
        (np.full((2, 2, 3), np.nan), "in \\[0, 1\\]"),
        (NOISE.astype(np.int64), "not int64"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        picture_file(array)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "HSV", "La", "RGBa", "RGBX"]
)
def test_images_become_the_picture_that_they_show(mode):
    image = Image.fromarray(NOISE)
    if mode == "I;16":
        image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    else:
        for step in {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa")}.get(mode, (mode,)):
            image = image.convert(step)
    shown = np.asarray(image.convert("LA" if mode == "La" else mode).convert("RGB"))
    if mode == "I;16":
        shown = np.repeat(NOISE[..., :1], 3, axis=2)
    read = decode(picture_file(image).content, (6, 9), max_pixels=1000)
    assert np.abs(255 * read.transpose(1, 2, 0) - shown).max() <= 1


def test_the_orientation_goes_along():
    turned = Image.fromarray(NOISE)
    turned.getexif()[0x0112] = 3
    content = encode(turned, "JPEG", exif=turned.getexif())
    opened = Image.open(io.BytesIO(content))
    sent = picture_file(opened).content
    size, limit = (6, 9), 1000
    assert np.array_equal(decode(sent, size, max_pixels=limit), decode(content, size, max_pixels=limit))


def test_what_is_no_picture_is_refused():
    with pytest.raises(TypeError, match="not int"):
        picture_file(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rb"):
        picture_file(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode F"):
        picture_file(Image.new("F", (2, 2)))
    with pytest.raises(FileNotFoundError):
        picture_file("no-such-file.png")
