"""Honour a PNG's gAMA chunk: turn samples of another gamma into those of sRGB."""

from functools import lru_cache
from typing import IO

from PIL import Image

from sgn_serve.pictures import png_chunks

_SRGB = 45455
"""gAMA of a picture in sRGB, in hundred thousandths. A screen of gamma 2.2 shows its samples unchanged."""
_VALID = range(16, 625_000_001)
"""Values that libpng takes for a gamma; others are ignored."""


_PALETTE, _GAMMA, _CODE_POINTS = b"PLTE", b"gAMA", b"cICP"


def exponent(picture: Image.Image) -> float:
    """Return the power that samples in [0, 1] are to be raised to; 1 for nearly every picture.

    A chunk that describes the colours better overrules gAMA: cICP, sRGB or an ICC profile. The first gAMA counts, and
    none behind the palette.
    Source: PNG specification, third edition, sections 5.6, 11.3.2.2 and 12.5, and chapter 13.13 (decoder gamma
    handling).

    Args:
        picture: Opened and not decoded yet, because what follows the pixels does not count.
    """
    info = picture.info
    if picture.format != "PNG" or "gamma" not in info or "srgb" in info or info.get("icc_profile") is not None:
        return 1.0
    stored = _stored(picture.fp)  # type: ignore[attr-defined]
    return _SRGB / stored if stored in _VALID else 1.0


def _stored(file: IO[bytes]) -> int:
    """Return the gamma that counts, in hundred thousandths; 0 for none.

    Args:
        file: Behind the chunks that precede the pixels. It is left where it was.
    """
    position = file.tell()
    file.seek(0)
    data = file.read(position)
    file.seek(position)
    stored = 0
    for name, start, end in png_chunks.chunks(data):
        if name in (_PALETTE, _CODE_POINTS):
            return 0 if name == _CODE_POINTS else stored
        if name == _GAMMA and not stored:
            stored = int.from_bytes(data[start + 8 : end - 4])
    return stored


@lru_cache(maxsize=16)
def _levels(power: float) -> tuple[int, ...]:
    return tuple(round(255 * (value / 255) ** power) for value in range(256))


def table(power: float) -> list[int] | None:
    """Return the 256 values that 8-bit samples become, None where all stay as they are."""
    if power == 1:
        return None
    levels = list(_levels(power))
    return None if levels == [*range(256)] else levels
