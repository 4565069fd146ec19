"""Picture files to arrays: bytes in, float32 (3, H, W) in [0, 1] out, within limits of pixels, memory and time."""

import time
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are accepted; no other decoder is ever tried."""

# Pillow's own limit is a second one, at another place and in other words; open_picture() checks the caller's instead.
Image.MAX_IMAGE_PIXELS = None

WHITE = (255, 255, 255)
_COPIES = {"WEBP": 2}
"""Formats whose decoder needs so many times the memory of the others' for the same picture."""
_STRIP_PIXELS = 1_000_000
_USUAL_SCANS = 12
_SCANNED_PIXELS = 300_000_000
_JPEG_SCAN = b"\xff\xda"


class ImageError(ValueError):
    """A file that cannot be made a picture; the message says why."""


class NotAnImage(ImageError):
    """None of the accepted formats."""


class TooManyPixels(ImageError):
    """More pixels than allowed."""


class DamagedImage(ImageError):
    """It starts like a picture, but cannot be decoded to the end."""


class UnsupportedPixels(ImageError):
    """A picture whose pixels have no known place between black and white, such as floating-point ones."""


class TooSlow(ImageError):
    """Decoding it takes longer than allowed."""


class _TimedFile:
    """A file that can be read until a deadline: what makes Pillow stop in the middle of a picture.

    It has no fileno on purpose, for decoders would read past the deadline through it.
    """

    def __init__(self, file: IO[bytes], seconds: float):
        self._file = file
        self._seconds = seconds
        self.restart()
        self.seek = file.seek
        self.tell = file.tell
        self.close = file.close

    def restart(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        self._check()
        return self._file.readline(size)

    def _check(self) -> None:
        if time.monotonic() > self._deadline:
            raise TooSlow(f"the picture takes more than {self._seconds:g} s to decode")


def decode(
    data: bytes | IO[bytes],
    size: tuple[int, int],
    max_pixels: int,
    background: tuple[int, int, int] = WHITE,
    seconds: float = 60.0,
) -> NDArray[np.float32]:
    """A picture file as a network takes it: open_picture, then to_array."""
    return to_array(open_picture(data, max_pixels, seconds), size, background)


def open_picture(data: bytes | IO[bytes], max_pixels: int, seconds: float = 60.0) -> Image.Image:
    """Reads a picture file's header; the pixels come when they are asked for.

    data:       the file, at its beginning
    max_pixels: largest width times height; of WebP half of it, for its decoder keeps the picture three times
    seconds:    for the header, and again for the pixels; looked at whenever the decoder reads on

    raises NotAnImage, TooManyPixels, DamagedImage, TooSlow
    """
    file = BytesIO(data) if isinstance(data, bytes) else data
    timed: Any = _TimedFile(file, seconds)
    try:
        picture = Image.open(timed, formats=FORMATS)
    except UnidentifiedImageError:
        raise NotAnImage(
            f"the file is none of the accepted formats ({', '.join(FORMATS)}), or its header is damaged"
        ) from None
    except TooSlow:
        raise
    except Exception as error:  # Pillow's parsers raise whatever a broken header makes them stumble on
        raise DamagedImage(f"the picture's header cannot be read ({_reason(error)})") from None
    width, height = picture.size
    allowed = max_pixels // _COPIES.get(str(picture.format), 1)
    if width * height > allowed:
        raise TooManyPixels(
            f"the {picture.format} picture has {width} x {height} = {width * height} pixels, more than {allowed}"
        )
    if picture.format == "JPEG":
        _check_scans(file, width * height)
    return picture


def to_array(
    picture: Image.Image, size: tuple[int, int], background: tuple[int, int, int] = WHITE
) -> NDArray[np.float32]:
    """Decodes an opened picture, and closes it.

    size:       (height, width) wanted, in pixels
    background: RGB that transparency lies on, 0 to 255
    returns:    (3, height, width) RGB in [0, 1]

    A picture of another size is stretched to the wanted one whatever its aspect, so that nothing is cut off
    (bilinear, antialiased when shrinking); one that has it already keeps every value. The EXIF orientation is applied,
    of an animation the first frame is taken, colour profiles are ignored. Beside what Pillow's decoder needs, it takes
    up to 8 bytes of memory a pixel.

    raises DamagedImage, UnsupportedPixels, TooSlow
    """
    file: Any = picture.fp  # type: ignore[attr-defined]
    if isinstance(file, _TimedFile):
        file.restart()  # it may have waited for its turn since it was opened
    with picture:
        try:
            picture.load()
        except TooSlow:
            raise
        except Exception as error:  # as above, now for broken pixel data
            raise DamagedImage(f"the {picture.format} picture is truncated or damaged ({_reason(error)})") from None
        turn = _orientation(picture)
        rgb = _to_rgb(picture, background)
    height, width = size
    # Shrunk before it is turned: turning a large picture would take as much memory again.
    wanted = (height, width) if turn in _SIDEWAYS else (width, height)
    if rgb.size != wanted:
        rgb = rgb.resize(wanted, Image.Resampling.BILINEAR)
    if turn is not None:
        rgb = rgb.transpose(turn)
    pixels = np.asarray(rgb, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels / np.float32(255))


def _check_scans(file: IO[bytes], pixels: int) -> None:
    """Refuses a large JPEG of many scans: for a few bytes each, the decoder walks over all pixels.

    The marker cannot be part of the pixel data; what cameras and editors write has ten scans, and a thumbnail's.
    """
    position = file.tell()
    file.seek(0)
    scans = file.read().count(_JPEG_SCAN)
    file.seek(position)
    allowed = max(_USUAL_SCANS, _SCANNED_PIXELS // pixels)
    if scans > allowed:
        raise TooSlow(f"the JPEG picture has {scans} scans, more than {allowed} at its size; save it again")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def _orientation(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(picture.getexif().get(ExifTag.Orientation, 1))
    except Exception:  # EXIF is a hint: a damaged one does not make the picture unreadable
        return None


def _to_rgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Whatever its mode; in strips, so that a large picture needs no third or fourth copy of itself."""
    if picture.mode in ("I", "F"):
        raise UnsupportedPixels(
            "the picture has 32-bit pixels, whose black and white are unknown; save it with 8 or 16 bits a channel"
        )
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    width, height = picture.size
    rows = max(1, _STRIP_PIXELS // width)
    rgb = Image.new("RGB", picture.size)
    white = _white_level(picture)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        try:
            rgb.paste(_strip_to_rgb(strip, white, background), (0, top))
        except ValueError as error:
            raise UnsupportedPixels(f"pixels of kind {picture.mode} cannot be read as RGB ({_reason(error)})") from None
    return rgb


def _strip_to_rgb(strip: Image.Image, white: int, background: tuple[int, int, int]) -> Image.Image:
    if strip.mode.startswith("I;16"):
        # convert("RGB") would clip 16 bits at 255, which turns nearly every grey white.
        values = np.asarray(strip).astype(np.uint32)
        grey = Image.fromarray(((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)).convert("RGB")
        transparent = strip.info.get("transparency")
        if isinstance(transparent, int):
            grey.paste(background, mask=Image.fromarray(values == transparent))
        return grey
    if not strip.has_transparency_data:
        return strip.convert("RGB")
    layer = strip.convert("RGBA")
    below = Image.new("RGB", layer.size, background)
    below.paste(layer, mask=layer.getchannel("A"))
    return below


def _white_level(picture: Image.Image) -> int:
    """The value of white in a mode of 16 bits: TIFF pixels of 12 bits are stored in one as they are."""
    bits = getattr(picture, "tag_v2", {}).get(258, (16,))  # BitsPerSample
    return 4095 if tuple(bits) == (12,) else 65535


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
