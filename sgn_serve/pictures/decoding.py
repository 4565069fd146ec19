"""Decode JPEG and all other picture files to float32 arrays (3, H, W) in [0, 1]."""

from dataclasses import dataclass
from io import BytesIO
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from PIL.JpegImagePlugin import JpegImageFile

from sgn_serve.common.error_text import one_line
from sgn_serve.pictures import corrections, gamma, icons, resizing, webp
from sgn_serve.pictures.errors import (
    DamagedImage,
    NotAnImage,
    PictureRefused,
    TooManyPixels,
    UnsupportedPixels,
)
from sgn_serve.pictures.formats import AVAILABLE

FORMATS = AVAILABLE
"""Formats that are accepted where nothing else is said, by Pillow's names. No other decoder is ever tried."""

# Pillow has a limit of its own, with messages of its own. It is switched off: open_picture() checks the caller's limit.
Image.MAX_IMAGE_PIXELS = None
# Big-endian 16-bit grey TIFFs with white at zero: Pillow knows only those with black at zero.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

WHITE = (255, 255, 255)
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)
"""The value that a network takes for each value of a channel. A table is one pass over the pixels instead of three."""
_STRIP_PIXELS = 1_000_000
"""Pixels that are converted to RGB at a time."""
_NO_RAW_MODE = "unknown raw mode"
"""Part of Pillow's message where its decoder does not know a layout that its header knows, such as reversed bits."""
_MOST_LETTERS = 200
"""Characters of an error of Pillow that a message repeats."""
_HALVED_PIXELS = 4_000_000
_HALVED_SHRINKING = 16
"""A JPEG with more pixels, shrunk at least this much in both directions, is decoded at half its size. The average of so
many pixels hardly changes, and decoding takes a quarter of the memory."""


def decode(
    data: bytes | IO[bytes],
    size: tuple[int, int],
    max_pixels: int,
    background: tuple[int, int, int] = WHITE,
    resize: str = "stretch",
) -> NDArray[np.float32]:
    """Decode a picture file to the array that a network takes: open_picture, then to_array.

    Args:
        data: The file, at its beginning.
        size: Wanted (height, width) in pixels.
        max_pixels: See open_picture.
        background: Colour under transparent pixels: RGB, 0 to 255.
        resize: See to_rgb.

    Returns:
        RGB in [0, 1], (3, height, width).

    Raises:
        PictureRefused: The file cannot be made such an array; see open_picture and to_array.
    """
    return to_array(open_picture(data, max_pixels), size, background, resize)


def open_picture(data: bytes | IO[bytes], max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Read a picture file's header and check how many pixels it has. None of them is decoded yet.

    Nothing here limits the time and the memory that a file takes: the service decodes in processes that do.

    Only those of a JPEG without the marker that ends it are decoded: it is refused if pixels are missing too.

    Args:
        data: The file, at its beginning.
        max_pixels: Largest width times height.
        formats: Formats to accept, by Pillow's names.

    Raises:
        NotAnImage: None of the accepted formats.
        UnsupportedPixels: The file stores its pixels in a way that is not decoded rightly.
        TooManyPixels: More pixels than allowed.
        DamagedImage: The header cannot be read.
    """
    file = BytesIO(data) if isinstance(data, bytes) else data
    source = corrections.prepare(file, formats)
    file = source.file
    try:
        picture = icons.IconBitmap(file) if source.icon else Image.open(file, formats=source.formats)
        corrections.correct(picture, file)
    except UnidentifiedImageError:
        raise NotAnImage(
            f"the file is none of the accepted formats ({', '.join(formats)}), or its header is damaged"
        ) from None
    except PictureRefused:
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of any kind for a broken header
        if isinstance(error, NotImplementedError) or str(error).startswith("Unsupported "):
            raise UnsupportedPixels(
                f"the picture's pixels are of a kind that is not read ({one_line(error, _MOST_LETTERS)})"
            ) from None
        raise DamagedImage(f"the picture's header cannot be read ({one_line(error, _MOST_LETTERS)})") from None
    width, height = picture.size
    if width * height > max_pixels:
        raise TooManyPixels(
            f"the {picture.format} picture has {width} x {height} = {width * height} pixels, more than {max_pixels}"
        )
    corrections.check_end(source)
    return picture


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of an opened picture with its EXIF orientation applied, in pixels.

    The pixels are not decoded, unless it is a PNG without EXIF before them.
    """
    width, height = picture.size
    turned = picture.format != "TIFF" and _orientation(picture) in _SIDEWAYS  # Pillow turns the size of a TIFF itself
    return (width, height) if turned else (height, width)


def to_array(
    picture: Image.Image, size: tuple[int, int], background: tuple[int, int, int] = WHITE, resize: str = "stretch"
) -> NDArray[np.float32]:
    """Decode an opened picture to the array that a network takes, and close it.

    Args:
        picture: See to_rgb.
        size: See to_rgb.
        background: See to_rgb.
        resize: See to_rgb.

    Returns:
        RGB in [0, 1], (3, height, width).

    Raises:
        PictureRefused: See to_rgb.
    """
    return to_input(to_rgb(picture, size, background, resize))


def to_input(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the array that a network takes, (3, height, width) in [0, 1].

    Args:
        pixels: RGB from 0 to 255, (height, width, 3).
    """
    return _LEVELS.take(pixels.transpose(2, 0, 1))


def to_rgb(
    picture: Image.Image,
    size: tuple[int, int] | None,
    background: tuple[int, int, int] = WHITE,
    resize: str = "stretch",
) -> NDArray[np.uint8]:
    """Decode an opened picture, and close it.

    A picture of another size is resampled (bilinear, antialiased when shrinking). One of that size keeps every value.
    The EXIF orientation and a PNG's gamma are applied. Only the first frame of an animation is read. Colour
    profiles are ignored.

    Memory: up to four bytes a pixel for the picture and, while Pillow decodes it, half to three times as much again.

    Args:
        picture: Result of open_picture.
        size: Wanted (height, width) in pixels. None keeps the picture's own.
        background: Colour under transparent pixels, and around an animation's first frame that is smaller than its
            canvas: RGB, 0 to 255. Padding has it too.
        resize: Treatment of a picture of another aspect: one of resizing.RESIZES.

    Returns:
        RGB from 0 to 255, (height, width, 3).

    Raises:
        DamagedImage: The pixels cannot be decoded to the end.
        UnsupportedPixels: The pixels have no known black and white.
    """
    with picture:
        if size is not None:
            _halve(picture, max(size))
        exponent, covered = gamma.exponent(picture), _covered(picture)
        try:
            corrections.start(picture)
            picture.load()
            corrections.finish(picture)
        except Exception as error:  # Pillow's decoders raise exceptions of any kind for broken pixels
            if _NO_RAW_MODE in str(error):
                raise UnsupportedPixels(f"this layout of a {picture.format} picture's pixels is not read") from None
            raise DamagedImage(
                f"the {picture.format} picture is truncated or damaged ({one_line(error, _MOST_LETTERS)})"
            ) from None
        colours = _Colours(_levels(picture), exponent, background, covered)
        turn = _orientation(picture)
        width, height = picture.size if size is None else (size[1], size[0])
        # Shrink before turning: turning a large picture would take as much memory again.
        across = size is not None and turn in _SIDEWAYS
        geometry = resizing.geometry(resize, picture.size, (height, width) if across else (width, height))
        rgb = _resized_rgb(picture, geometry, colours)
    upright = rgb if turn is None else rgb.transpose(turn)
    return np.asarray(upright if size is None else resizing.pad(upright, (width, height), background))


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
    except MemoryError:
        raise
    except Exception:  # EXIF is a hint: a damaged one does not make the picture unreadable
        return None


def _halve(picture: Image.Image, wanted: int) -> None:
    """Make Pillow decode a large JPEG at half its size, if it will be shrunk far more than that."""
    width, height = picture.size
    large = width * height > _HALVED_PIXELS and min(width, height) >= _HALVED_SHRINKING * wanted
    if large and isinstance(picture, JpegImageFile):
        picture.draft(None, (width // 2, height // 2))


@dataclass(frozen=True)
class _Colours:
    """The conversion of a picture's stored values to RGB.

    Attributes:
        levels: See _levels.
        exponent: See gamma.exponent.
        background: RGB, 0 to 255.
        covered: See _covered.
    """

    levels: tuple[int, int]
    exponent: float
    background: tuple[int, int, int]
    covered: tuple[int, int, int, int] | None


def _covered(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the part of an animation's canvas that its first frame covers: left, top, right, bottom. None for all.

    Browsers leave the rest transparent. Pillow fills it with colour 0 of a GIF's palette, or with black in a WebP that
    tells of no alpha channel.
    """
    if picture.format == "GIF" and picture.tile:  # type: ignore[attr-defined]
        covered = picture.tile[0].extents  # type: ignore[attr-defined]
    elif picture.format == "WEBP" and picture.mode == "RGB":
        covered = webp.first_frame(picture.fp)  # type: ignore[attr-defined]
    else:
        return None
    return None if covered in (None, (0, 0, *picture.size)) else tuple(covered)


def _resized_rgb(picture: Image.Image, geometry: resizing.Geometry, colours: _Colours) -> Image.Image:
    """Return a decoded picture of any mode as RGB, resampled.

    It is converted in strips: each is resized across, then all of them together down, as Pillow resizes a whole
    picture. A large picture thus needs no second copy of itself.
    """
    if picture.mode == "I" and picture.format == "PPM":  # 16 bits, which Pillow keeps in 32
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16))
    if picture.mode in ("I", "F"):
        raise UnsupportedPixels(
            "the picture has 32-bit pixels, whose black and white are unknown; save it with 8 or 16 bits a channel"
        )
    size, part = geometry.size, geometry.part
    plain = picture.mode == "RGB" and not picture.has_transparency_data
    if plain and colours.exponent == 1 and colours.covered is None:
        if picture.size == size and part is None:
            return picture
        return picture.resize(size, Image.Resampling.BILINEAR, part)
    left, above, right, below = (0, 0, *picture.size) if part is None else part
    width, height = picture.size
    rows = max(1, _STRIP_PIXELS // width)
    narrow = Image.new("RGB", (size[0], height))
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        try:
            rgb = _strip_to_rgb(strip, colours)
        except ValueError as error:
            raise UnsupportedPixels(
                f"pixels of kind {picture.mode} cannot be read as RGB ({one_line(error, _MOST_LETTERS)})"
            ) from None
        if colours.covered is not None:
            rgb = _covered_part(rgb, top, colours.covered, colours.background)
        row = rgb.resize((size[0], rgb.height), Image.Resampling.BILINEAR, (left, 0, right, rgb.height))
        narrow.paste(row, (0, top))
    if narrow.size == size and part is None:
        return narrow
    return narrow.resize(size, Image.Resampling.BILINEAR, (0, above, size[0], below))


def _strip_to_rgb(strip: Image.Image, colours: _Colours) -> Image.Image:
    if strip.mode.startswith("I;16"):
        # convert("RGB") would clip 16 bits at 255, which turns nearly every grey white.
        black, white = colours.levels
        values = np.asarray(strip).astype(np.int32)
        if colours.exponent == 1:
            scaled = ((values - black) * 255 + (white - black) // 2) // (white - black)
        else:
            scaled = np.rint(((values - black) / (white - black)) ** colours.exponent * 255)
        grey = Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")
        transparent = strip.info.get("transparency")
        if isinstance(transparent, int):
            grey.paste(colours.background, mask=Image.fromarray(values == transparent))
        return grey
    table = gamma.table(colours.exponent)
    if not strip.has_transparency_data:
        rgb = strip.convert("RGB")
        return rgb if table is None else rgb.point(3 * table)
    layer = strip.convert("RGBA")
    if table is not None:
        layer = layer.point(3 * table + [*range(256)])
    below = Image.new("RGB", layer.size, colours.background)
    below.paste(layer, mask=layer.getchannel("A"))
    return below


def _covered_part(
    strip: Image.Image, top: int, covered: tuple[int, int, int, int], background: tuple[int, int, int]
) -> Image.Image:
    """Return a strip, whose first row is row `top` of its picture, with the background around the covered part."""
    left, above, right, below = covered
    above, below = max(above - top, 0), min(below - top, strip.height)
    around = Image.new("RGB", strip.size, background)
    if left < right and above < below:
        around.paste(strip.crop((left, above, right, below)), (left, above))
    return around


def _levels(picture: Image.Image) -> tuple[int, int]:
    """Return the values of black and white of a picture in a 16-bit mode.

    Pillow stores 12-bit TIFF pixels unscaled in such a mode. It inverts TIFFs with white at zero only up to 8 bits. A
    TIFF that does not say which end is white has white at zero, as in Pillow.
    """
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return 0, corrections.white(picture)
    highest = 4095 if tuple(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))) == (12,) else 65535
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    return (highest, 0) if white_is_zero else (0, highest)
