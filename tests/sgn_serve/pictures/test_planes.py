import numpy as np
import pytest

from release.hostile.seeds import tiff
from sgn_serve.pictures import decoding
from sgn_serve.pictures.decoding import decode
from sgn_serve.pictures.errors import DamagedImage, TooManyPixels, UnsupportedPixels
from tests.sgn_serve.odd_pictures import write_tiff
from tests.sgn_serve.sample_pictures import TIFF_DATA, noise

LIMIT = 10_000


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("depth", [8, 16])
def test_premultiplied_planes_are_what_interleaved_samples_are(depth, compression, order):
    unit = 257 if depth == 16 else 1
    alpha = np.full((8, 8), 128)
    channels = [*(np.moveaxis(noise(), 2, 0).astype(np.int64) // 2 * unit), alpha * unit]
    options = {"compression": compression, "t338": 1}
    separate = decode(write_tiff(channels, depth, 2, order, True, **options), (8, 8), LIMIT)
    assert np.array_equal(separate, decode(write_tiff(channels, depth, 2, order, False, **options), (8, 8), LIMIT))
    half = np.abs(separate.transpose(1, 2, 0) * 255 - (noise() / 2 + 127)).max()
    assert half < 3, "half of the picture, half of the white below"


@pytest.mark.parametrize("depth", [8, 16])
def test_planes_in_several_strips(depth):
    unit = 257 if depth == 16 else 1
    rgb = noise(8, 6).astype(f"<u{depth // 8}") * unit
    strips = [rgb[top : top + 2, :, plane].tobytes() for plane in range(3) for top in range(0, 8, 2)]
    length = len(strips[0])
    tags = {256: 6, 257: 8, 258: [depth] * 3, 259: 1, 262: 2, 277: 3, 278: 2, 284: 2}
    places = {273: [TIFF_DATA + at * length for at in range(12)], 279: [length] * 12}
    found = decode(tiff(b"".join(strips), tags | places), (8, 6), LIMIT)
    assert np.array_equal(np.rint(found * 255).transpose(1, 2, 0), noise(8, 6))


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("photometric", [1, 3])
def test_separate_alpha_of_grey_and_palettes_is_refused(photometric, compression):
    plane = np.zeros((8, 8), np.int64)
    file = write_tiff([plane, plane], 8, photometric, planar=True, compression=compression, t338=2)
    with pytest.raises(UnsupportedPixels, match="separate planes of kind"):
        decode(file, (8, 8), LIMIT)


def test_signed_samples_are_refused():
    with pytest.raises(UnsupportedPixels, match="signed"):
        decode(write_tiff([np.zeros((8, 8), np.int64)], 8, 1, t339=2), (8, 8), LIMIT)


def test_planes_that_libtiff_reads_are_bounded():
    wide = [np.zeros((100, 100), np.int64)] * 3
    assert decode(write_tiff(wide, 16, 2, planar=True), (8, 8), LIMIT).max() == 0
    with pytest.raises(TooManyPixels):
        decoding.open_picture(write_tiff(wide, 16, 2, planar=True), LIMIT - 1)
    file = write_tiff(wide, 16, 2, planar=True)
    with pytest.raises(DamagedImage):
        decode(file[: len(file) // 2], (8, 8), LIMIT)
