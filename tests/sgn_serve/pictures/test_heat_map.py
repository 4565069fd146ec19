from io import BytesIO

import numpy as np
from PIL import Image

from sgn_serve.pictures.heat_map import heat_map, heat_map_png

GREY = np.full((3, 8, 8), 0.5, np.float32)


def test_the_strongest_pixels_are_the_brightest_and_the_rest_is_the_picture():
    gradient = np.zeros((3, 8, 8), np.float32)
    gradient[1, 2, 3] = -4
    gradient[0, 5, 5] = 1
    drawn = heat_map(GREY, gradient).astype(int)
    untouched = np.delete(drawn.reshape(-1, 3), [2 * 8 + 3, 5 * 8 + 5], axis=0)
    assert np.abs(untouched - 127.5).max() <= 1
    assert drawn[2, 3].sum() > 500, "bright, whatever the sign"
    assert drawn[5, 5].sum() < drawn[2, 3].sum()
    assert np.ptp(drawn[2, 3]) > 30, "in colour"


def test_the_unit_does_not_matter_and_no_gradient_is_no_heat():
    gradient = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    assert np.array_equal(heat_map(GREY, gradient), heat_map(GREY, gradient * 1e-6))
    assert np.abs(heat_map(GREY, np.zeros_like(gradient)).astype(int) - 127.5).max() <= 1


def test_the_file_is_a_png_with_square_pixels():
    picture = Image.open(BytesIO(heat_map_png(GREY[:, :, :6], np.ones((3, 8, 6), np.float32))))
    assert picture.format == "PNG"
    assert picture.size == (192, 256)
    assert picture.getpixel((0, 0)) == picture.getpixel((31, 31))
