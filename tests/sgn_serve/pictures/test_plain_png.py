"""The short way gives the pixels of the usual way, or none."""

import random
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import encode_png

from release.hostile.structures import png_chunk
from sgn_serve.decoder_processes.job import IsLarge, PictureOptions, make_job
from sgn_serve.pictures import decoding
from sgn_serve.pictures.errors import NotAnImage, TooManyPixels
from sgn_serve.pictures.plain_png import plain_pixels
from sgn_serve.pictures.png_chunks import SIGNATURE
from tests.sgn_serve.odd_pictures import odd_pictures
from tests.sgn_serve.sample_pictures import encode, noise


def _usual(data: bytes, size: tuple[int, int]) -> np.ndarray:
    return decoding.to_rgb(decoding.open_picture(data, 10**6), size)


def _file(width: int, height: int, packed: bytes, cuts: list[int], header: bytes = bytes([8, 2, 0, 0, 0])) -> bytes:
    """Return a file whose pixel data are cut into chunks at these places."""
    places = [0, *sorted(cuts), len(packed)]
    chunks = [png_chunk(b"IDAT", packed[begin:end]) for begin, end in pairwise(places)]
    start = png_chunk(b"IHDR", struct.pack(">LL", width, height) + header)
    return SIGNATURE + start + b"".join(chunks) + png_chunk(b"IEND", b"")


def _random_file(generator: random.Random) -> tuple[bytes, tuple[int, int]]:
    """Return a file that is plain or nearly so, and its size."""
    width, height = generator.choice([(8, 8), (1, 1), (7, 5), (9, 1), (1, 9)])
    levels = generator.choice([[0], [0, 255], range(256)])
    rows = [bytes([generator.randrange(5), *generator.choices(levels, k=3 * width)]) for _ in range(height)]
    pixels = b"".join(rows)
    kind = generator.random()
    if kind < 0.1:
        pixels = pixels[: generator.randrange(len(pixels))]
    elif kind < 0.2:
        pixels += generator.randbytes(generator.randint(1, 99))
    elif kind < 0.25:
        pixels = generator.randbytes(len(pixels))
    packed = bytearray(zlib.compress(pixels, generator.choice([0, 1, 6, 9])))
    kind = generator.random()
    if kind < 0.1:
        del packed[generator.randrange(len(packed)) :]
    elif kind < 0.2:
        packed += generator.randbytes(generator.randint(1, 99))
    elif kind < 0.3:
        packed[generator.randrange(len(packed))] ^= 1 << generator.randrange(8)
    cuts = [generator.randint(0, len(packed)) for _ in range(generator.choice([0, 0, 1, 3]))]
    data = bytearray(_file(width, height, bytes(packed), cuts))
    kind = generator.random()
    if kind < 0.15:
        data[generator.randrange(len(data))] = generator.randrange(256)
    elif kind < 0.2:
        del data[generator.randrange(len(data)) :]
    elif kind < 0.25:
        place = generator.randrange(len(data))
        data[place:place] = generator.randbytes(generator.randint(1, 20))
    return bytes(data), (height, width)


def test_a_damaged_file_has_the_pixels_of_the_usual_way_or_none():
    generator = random.Random(0)
    short = 0
    for number in range(4000):
        data, size = _random_file(generator)
        pixels = plain_pixels(data, size)
        if pixels is not None:
            short += 1
            assert np.array_equal(pixels, _usual(data, size)), number
    assert short > 1000


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_files_of_common_writers_go_the_short_way():
    pixels = noise(6, 4)
    for data in (
        encode(Image.fromarray(pixels)),
        encode(Image.fromarray(pixels), compress_level=0),
        encode_png(torch.from_numpy(pixels).permute(2, 0, 1)).numpy().tobytes(),
    ):
        found = plain_pixels(data, (6, 4))
        assert found is not None
        assert np.array_equal(found, pixels)


def test_other_files_go_the_usual_way():
    packed = zlib.compress(b"".join(b"\0" + bytes(range(1, 10)) for _ in range(3)))
    plain = _file(3, 3, packed, [4])
    assert plain_pixels(plain, (3, 3)) is not None
    header = len(SIGNATURE) + 25
    others = {
        "another size": (plain, (3, 4)),
        "interlaced": (_file(3, 3, packed, [], bytes([8, 2, 0, 0, 1])), (3, 3)),
        "grey": (_file(3, 3, packed, [], bytes([8, 0, 0, 0, 0])), (3, 3)),
        "a gamma": (plain[:header] + png_chunk(b"gAMA", struct.pack(">L", 100000)) + plain[header:], (3, 3)),
        "a transparent colour": (plain[:header] + png_chunk(b"tRNS", bytes(6)) + plain[header:], (3, 3)),
        "an orientation": (plain[:-12] + png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0") + plain[-12:], (3, 3)),
        "something behind": (plain + b"\0", (3, 3)),
        "no pixels": (_file(3, 3, b"", []), (3, 3)),
        "a last pixel in black": (_file(3, 3, zlib.compress(bytes(30)), []), (3, 3)),
        "a JPEG": (encode(Image.fromarray(noise(3, 3)), "JPEG"), (3, 3)),
        "nothing": (b"", (3, 3)),
    }
    for name, (data, size) in others.items():
        assert plain_pixels(data, size) is None, name
    for picture in odd_pictures(noise(12, 10)):
        found = plain_pixels(picture.data, (12, 10))
        assert found is None or np.array_equal(found, _usual(picture.data, (12, 10))), picture.name


def test_a_file_far_larger_than_its_pixels_goes_the_usual_way():
    pixels = noise(32, 32)
    stored = encode(Image.fromarray(pixels), compress_level=0)
    assert len(stored) > pixels.nbytes
    assert plain_pixels(stored, (32, 32)) is not None
    crowded = stored[:-12] + png_chunk(b"IDAT", b"ab") * 1000 + stored[-12:]
    assert np.array_equal(_usual(crowded, (32, 32)), pixels)
    assert plain_pixels(crowded, (32, 32)) is None


def test_a_decoder_refuses_a_plain_file_as_any_other():
    data = encode(Image.fromarray(noise(6, 4)))

    def job(max_pixels: int = 10**6, **options):
        return make_job(**PictureOptions((6, 4), max_pixels, **options).as_json())

    assert np.array_equal(job()(data, 24), noise(6, 4))
    with pytest.raises(TooManyPixels):
        job(23)(data, 10**6)
    with pytest.raises(IsLarge):
        job()(data, 23)
    with pytest.raises(NotAnImage):
        job(formats=("JPEG",))(data, 24)
