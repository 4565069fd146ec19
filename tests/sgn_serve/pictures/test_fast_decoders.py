"""The decoders here give the pixels of Pillow's own."""

import random
import struct
from io import BytesIO

import pytest
from PIL import Image

from sgn_serve.pictures import fast_decoders

_END_OF_LINE, _END, _STEP = b"\0\0", b"\0\1", b"\0\2"


def _bmp(width: int, height: int, bits: int, colours: int, pixels: bytes) -> bytes:
    palette = b"".join(bytes([number * 255 // (colours - 1)] * 3 + [0]) for number in range(colours))
    begin = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", begin + len(pixels), 0, 0, begin)
    coding = 1 if bits == 8 else 2
    sizes = (40, width, height, 1, bits, coding, len(pixels), 0, 0, colours, 0)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + palette + pixels


def _operations(generator: random.Random, bits: int) -> bytes:
    """Return some operations, the last of which may be cut."""
    parts = []
    for _ in range(generator.randrange(30)):
        kind = generator.choice("rrreesp")
        if kind == "r":
            parts.append(bytes([generator.randint(0, 24), generator.randrange(256)]))
        elif kind == "e":
            parts.append(_END_OF_LINE if generator.random() < 0.9 else _END)
        elif kind == "s":
            parts.append(_STEP + bytes([generator.randrange(9), generator.randrange(3)]))
        else:
            count = generator.randint(3, 20)
            stored = generator.randbytes(count if bits == 8 else (count + 1) // 2)
            parts.append(bytes([0, count]) + stored + bytes(len(stored) % 2))
    pixels = b"".join(parts)
    return pixels[: generator.randint(0, len(pixels))] if generator.random() < 0.2 else pixels


def _pixels(picture: Image.Image) -> tuple[str, bytes]:
    """Return the mode and the pixels, or what is wrong with them."""
    try:
        picture.load()
    except ValueError as error:
        return str(error), b""
    return picture.mode, picture.tobytes()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_bmp_with_run_length_encoding_is_what_pillow_makes_of_it(bits):
    generator = random.Random(bits)
    modes = set()
    for _ in range(500):
        size = generator.randint(1, 12), generator.choice((-1, 1)) * generator.randint(1, 6)
        data = _bmp(*size, bits, generator.choice((2, 1 << bits)), _operations(generator, bits))
        picture = Image.open(BytesIO(data))
        fast_decoders.correct(picture)
        assert picture.tile[0][0] == "sgn_bmp_rle"
        answer = _pixels(picture)
        assert answer == _pixels(Image.open(BytesIO(data)))
        modes.add(answer[0])
    assert len(modes) == 3, "those of two colours, those of more, and damaged ones"
