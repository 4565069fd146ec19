import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from release.hostile.structures import png_chunk
from sgn_serve.pictures.decoding import decode
from tests.sgn_serve.odd_pictures import write_png
from tests.sgn_serve.sample_pictures import encode, noise

SIZE = (8, 8)
LIMIT = 10_000
LINEAR = (b"gAMA", struct.pack(">I", 100_000))


def values(file):
    return np.rint(decode(file, SIZE, LIMIT) * 255).astype(int).transpose(1, 2, 0)


def test_the_pictures_of_nearly_everybody_keep_every_value():
    rgb = noise()
    for gamma in (45455, 45454, 0, 15, 2**32 - 1):
        chunk = (b"gAMA", struct.pack(">I", gamma))
        assert np.array_equal(values(write_png(rgb, 8, 2, (chunk,))), rgb), gamma


def test_linear_samples_become_those_of_srgb():
    rgb = noise()
    found = values(write_png(rgb, 8, 2, (LINEAR,)))
    assert np.array_equal(found, np.rint((rgb / 255) ** 0.45455 * 255))
    assert found.mean() > rgb.mean() + 30


@pytest.mark.parametrize("better", [(b"sRGB", b"\0"), (b"cICP", b"\1\15\0\1"), (b"iCCP", None)])
def test_a_better_description_of_the_colours_overrules_it(better):
    rgb = noise()
    name, content = better
    if content is None:
        info = PngImagePlugin.PngInfo()
        picture = encode(Image.fromarray(rgb), icc_profile=b"a profile", pnginfo=info)
        end = picture.index(b"iCCP") - 4
        file = picture[:end] + png_chunk(*LINEAR) + picture[end:]
    else:
        file = write_png(rgb, 8, 2, (LINEAR, (name, content)))
    assert np.array_equal(values(file), rgb)


def test_the_first_of_two_counts():
    rgb = noise()
    assert np.array_equal(values(write_png(rgb, 8, 2, ((b"gAMA", struct.pack(">I", 45455)), LINEAR))), rgb)


def test_a_chunk_after_the_palette_does_not_count():
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    index = np.zeros((8, 8, 1), np.int64)
    assert values(write_png(index, 8, 3, (palette, LINEAR)))[0, 0].tolist() == [10, 20, 30]


def test_a_chunk_after_the_pixels_does_not_count():
    picture = encode(Image.fromarray(noise()))
    end = picture.index(b"IEND") - 4
    assert np.array_equal(values(picture[:end] + png_chunk(*LINEAR) + picture[end:]), noise())


def test_grey_of_16_bits_is_converted_before_it_loses_its_dark_levels():
    dark = np.arange(0, 640, 10).reshape(8, 8, 1)
    found = values(write_png(dark, 16, 0, (LINEAR,)))[..., 0]
    assert np.array_equal(found, np.rint((dark[..., 0] / 65535) ** 0.45455 * 255))
    assert len(np.unique(found)) > 20


def test_palettes_are_converted_and_alpha_is_not():
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    index = np.zeros((8, 8, 1), np.int64)
    assert values(write_png(index, 8, 3, (LINEAR, palette)))[0, 0].tolist() == [59, 80, 96]
    rgba = np.full((8, 8, 4), (0, 0, 0, 128))
    assert values(write_png(rgba, 8, 6, (LINEAR,)))[0, 0].tolist() == [127, 127, 127]
