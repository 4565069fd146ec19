"""TIFFs of every layout that a header can declare are read rightly or refused: never with other colours."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.pictures.files import read_rgb
from tests.sgn_serve.odd_pictures import shallow_samples, write_tiff

LEAST_RIGHT = {
    "white is zero": 68,
    "grey": 80,
    "grey, alpha": 4,
    "RGB": 24,
    "RGBA": 16,
    "RGB, two more": 0,
    "palette": 52,
    "CMYK": 16,
    "CMYK, one more": 10,
    "LAB": 4,
    "YCbCr": 6,
}
"""How many of each kind's layouts are read. The others are refused."""
SIZE = (6, 13)
"""Height and width; the width fills no byte with samples of 1, 2, 4 or 12 bits."""


Layout = tuple[list[NDArray[np.int64]], int, dict[str, Any], NDArray[np.uint8]]


def layout(kind: str, depth: int) -> Layout:
    """Return samples of each channel, tag 262, further tags, and the picture (H, W, 3) that a viewer shows."""
    top = (1 << depth) - 1
    random = np.random.default_rng(depth)
    colours = [random.integers(0, top + 1, SIZE) for _ in range(3)]
    full, none = np.full(SIZE, top), np.zeros(SIZE, np.int64)
    grey = np.repeat(shallow_samples(colours[0], depth)[..., None], 3, axis=2)
    rgb = np.stack([shallow_samples(colour, depth) for colour in colours], axis=2)
    inks = [top - colour for colour in colours]
    ramp = (np.arange(256) * 255 // min(top, 255)).astype(np.uint8)
    middle = np.full(SIZE, 1 << (depth - 1))
    lightness = colours[0] / top
    # CIE L* to luminance, and that to sRGB.
    light = np.where(lightness > 0.08, ((lightness * 100 + 16) / 116) ** 3, lightness * 100 / 903.3)
    light = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    neutral = np.repeat(np.rint(255 * light).astype(np.uint8)[..., None], 3, axis=2)
    layouts: dict[str, Layout] = {
        "white is zero": ([top - colours[0]], 0, {}, grey),
        "grey": ([colours[0]], 1, {}, grey),
        "grey, alpha": ([colours[0], full], 1, {"t338": 2}, grey),
        "RGB": (colours, 2, {}, rgb),
        "RGBA": ([*colours, full], 2, {"t338": 2}, rgb),
        "RGB, two more": ([*colours, full, full], 2, {}, rgb),
        "palette": ([colours[0]], 3, {}, np.stack([ramp, 255 - ramp, ramp // 2], axis=1)[colours[0] % 256]),
        "CMYK": ([*inks, none], 5, {}, rgb),
        "CMYK, one more": ([*inks, none, none], 5, {"t338": 0}, rgb),
        "LAB": ([colours[0], none, none], 8, {}, neutral),
        "YCbCr": (
            [colours[0], middle, middle],
            6,
            {"t530": [1, 1], "t532": [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]},
            grey,
        ),
    }
    return layouts[kind]


@pytest.mark.parametrize("kind", LEAST_RIGHT)
def test_a_tiff_is_read_rightly_or_refused(kind: str) -> None:
    outcomes: Counter[str] = Counter()
    wrong = []
    for depth in (1, 2, 4, 8, 12, 16, 24, 32):
        if kind == "palette" and depth > 8:
            continue
        samples, photometric, more, expected = layout(kind, depth)
        for order, planar, compression, fill, sign in product("<>", (False, True), (1, 8), (1, 2), (1, 2, 3)):
            options = {"compression": compression, "fill_order": fill, "t339": sign, **more}
            data = write_tiff(samples, depth, photometric, order, planar, **options)
            try:
                read = read_rgb(data, None).astype(int)
            except PictureRefused as refused:
                outcomes[f"{type(refused).__name__}"] += 1
                continue
            error = np.abs(read - expected).max()
            outcomes["right" if error <= 2 else "wrong"] += 1
            if error > 2:
                wrong.append((depth, order, planar, compression, fill, sign, int(error)))
    assert outcomes["right"] >= LEAST_RIGHT[kind], outcomes
    assert wrong == []
