"""Decode picture files to float32 arrays (3, H, W) in [0, 1], with limits on pixels, memory and time."""

import math
import time
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from PIL.JpegImagePlugin import JpegImageFile

from sgn_serve.pictures import gamma, jpeg_header, planes, resizing, tiff_layout, webp
from sgn_serve.pictures.errors import (
    DamagedImage,
    NotAnImage,
    PictureRefused,
    TooManyPixels,
    TooSlow,
    UnsupportedPixels,
)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Accepted formats, by Pillow's names. No other decoder is ever tried."""

# Pillow has a limit of its own, with messages of its own. It is switched off: open_picture() checks the caller's limit.
Image.MAX_IMAGE_PIXELS = None
# Big-endian 16-bit grey TIFFs with white at zero: Pillow knows only those with black at zero.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

WHITE = (255, 255, 255)
_STRIP_PIXELS = 1_000_000
"""Pixels that are converted to RGB at a time."""
_HEADER_READS = 100_000
"""Most reads of a picture's header."""
_EXIF_BYTES = 1 << 18
"""Most bytes of EXIF that are read."""
_BLOCKS = 100_000
"""Most strips or tiles of a TIFF."""
_DECODER_BYTES = 2.5
"""Most memory that a TIFF's decoder may take beside the picture, in bytes for every pixel allowed."""
_HALVED_PIXELS = 4_000_000
_HALVED_SHRINKING = 16
"""A JPEG with more pixels, shrunk at least this much in both directions, is decoded at half its size. The average of so
many pixels hardly changes, and decoding takes a quarter of the memory."""
_USUAL_SCANS = 12
"""Scans that any JPEG may have."""
_SCANNED_PIXELS = 300_000_000
"""Most pixels, times scans, of a JPEG with more scans than that."""
_JPEG_SCAN = b"\xff\xda"


class _TimedFile:
    """A file that refuses to be read after a deadline, which stops Pillow in the middle of a picture.

    The reads of a header are limited too, because Pillow makes objects of each of its parts, however small.
    There is no fileno on purpose: decoders would read past the deadline through it.
    """

    def __init__(self, file: IO[bytes], seconds: float):
        self._file = file
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._reads: float = _HEADER_READS
        self.seek = file.seek
        self.tell = file.tell
        self.close = file.close

    def start_pixels(self) -> None:
        """Start the time limit for the pixels; reads are no longer counted."""
        self._deadline = time.monotonic() + self._seconds
        self._reads = math.inf

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        self._check()
        return self._file.readline(size)

    def _check(self) -> None:
        if time.monotonic() > self._deadline:
            raise TooSlow(f"the picture takes more than {self._seconds:g} s to decode")
        self._reads -= 1
        if self._reads < 0:
            raise TooSlow(f"the picture's header has too many parts: it takes more than {_HEADER_READS} reads")


def decode(
    data: bytes | IO[bytes],
    size: tuple[int, int],
    max_pixels: int,
    background: tuple[int, int, int] = WHITE,
    seconds: float = 60.0,
    resize: str = "stretch",
) -> NDArray[np.float32]:
    """Decode a picture file to the array that a network takes: open_picture, then to_array.

    Args:
        data: The file, at its beginning.
        size: Wanted (height, width) in pixels.
        max_pixels: See open_picture.
        background: Colour under transparent pixels: RGB, 0 to 255.
        seconds: See open_picture.
        resize: See to_rgb.

    Returns:
        RGB in [0, 1], (3, height, width).

    Raises:
        PictureRefused: The file cannot be made such an array; see open_picture and to_array.
    """
    return to_array(open_picture(data, max_pixels, seconds), size, background, resize)


def open_picture(
    data: bytes | IO[bytes], max_pixels: int, seconds: float = 60.0, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Read a picture file's header and check it against the limits. No pixels are decoded yet.

    Args:
        data: The file, at its beginning.
        max_pixels: Largest width times height, and largest sum of a TIFF's tiles. WebP may have two fifths of it,
            because its decoder keeps the picture three times. A progressive JPEG in CMYK, or without chroma
            subsampling, may have two thirds.
        seconds: Time limit for the header, and again for the pixels. It is checked whenever the decoder reads on.
            Nothing can stop a decoder between two reads, and those of WebP and compressed TIFF read only once. The
            limits on size, which are checked here, bound their time. Infinity, for files of one's own, also leaves
            the reads of the header unlimited, which is faster.
        formats: Formats to accept, by Pillow's names.

    Raises:
        NotAnImage: None of the accepted formats.
        UnsupportedPixels: A TIFF stores its pixels in a way that is not decoded rightly.
        TooManyPixels: More pixels, or more memory to decode them, than allowed.
        DamagedImage: The header cannot be read.
        TooSlow: Reading the header takes too long, or decoding would.
    """
    file = BytesIO(data) if isinstance(data, bytes) else data
    layout, header = _look_ahead(file)
    timed: Any = file if seconds == math.inf else _TimedFile(file, seconds)
    try:
        picture = Image.open(timed, formats=formats)
        planes.correct(picture)
    except UnidentifiedImageError:
        raise NotAnImage(
            f"the file is none of the accepted formats ({', '.join(formats)}), or its header is damaged"
        ) from None
    except PictureRefused:
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of any kind for a broken header
        raise DamagedImage(f"the picture's header cannot be read ({_reason(error)})") from None
    width, height = picture.size
    allowed = max_pixels
    if picture.format == "WEBP":
        allowed = max_pixels * 2 // 5
    elif isinstance(picture, JpegImageFile) and _kept_coefficients(picture, header) > 2:
        allowed = max_pixels * 2 // 3
    if width * height > allowed:
        raise TooManyPixels(
            f"the {picture.format} picture has {width} x {height} = {width * height} pixels, more than {allowed}"
        )
    if isinstance(picture, JpegImageFile):
        _check_scans(file, header, width * height)
    if layout is not None:
        _check_layout(file, layout, max_pixels)
    return picture


def decoded_pixels(picture: Image.Image) -> int:
    """Return the number of pixels that decoding an opened picture makes.

    A tiled TIFF counts all pixels of its tiles, however few of them the picture shows.
    """
    tags = getattr(picture, "tag_v2", {})
    if TiffImagePlugin.TILEWIDTH not in tags:
        return picture.width * picture.height
    across, down = tags[TiffImagePlugin.TILEWIDTH], tags[TiffImagePlugin.TILELENGTH]
    columns = math.ceil(tags[TiffImagePlugin.IMAGEWIDTH] / across)
    rows = math.ceil(tags[TiffImagePlugin.IMAGELENGTH] / down)
    return int(columns * across * rows * down)


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
    return np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1) / np.float32(255))


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
        picture: As open_picture returns it.
        size: Wanted (height, width) in pixels. None keeps the picture's own.
        background: Colour under transparent pixels, and around an animation's first frame that is smaller than its
            canvas: RGB, 0 to 255. Padding has it too.
        resize: What happens to a picture of another aspect: one of resizing.RESIZES.

    Returns:
        RGB from 0 to 255, (height, width, 3).

    Raises:
        DamagedImage: The pixels cannot be decoded to the end.
        UnsupportedPixels: The pixels have no known black and white.
        TooSlow: Decoding takes longer than open_picture was told.
    """
    file: Any = picture.fp  # type: ignore[attr-defined]
    if isinstance(file, _TimedFile):
        file.start_pixels()  # a new deadline: the picture may have waited for its turn since it was opened
    with picture:
        if size is not None:
            _halve(picture, max(size))
        exponent, covered = gamma.exponent(picture), _covered(picture)
        try:
            picture.load()
        except TooSlow:
            raise
        except Exception as error:  # Pillow's decoders raise exceptions of any kind for broken pixels
            raise DamagedImage(f"the {picture.format} picture is truncated or damaged ({_reason(error)})") from None
        colours = _Colours(_levels(picture), exponent, background, covered)
        turn = _orientation(picture)
        width, height = picture.size if size is None else (size[1], size[0])
        # Shrink before turning: turning a large picture would take as much memory again.
        across = size is not None and turn in _SIDEWAYS
        geometry = resizing.geometry(resize, picture.size, (height, width) if across else (width, height))
        rgb = _resized_rgb(picture, geometry, colours)
    upright = rgb if turn is None else rgb.transpose(turn)
    return np.asarray(upright if size is None else resizing.pad(upright, (width, height), background))


def _look_ahead(file: IO[bytes]) -> tuple[tiff_layout.Layout | None, jpeg_header.Header | None]:
    """Read what a TIFF or JPEG file says about the cost of decoding it, before Pillow makes objects of its tags."""
    position = file.tell()
    start = file.read(4)
    file.seek(position)
    layout, header = None, None
    if tiff_layout.is_tiff(start):
        try:
            layout = tiff_layout.read_layout(file.read())
        except ValueError as error:
            raise DamagedImage(f"the TIFF picture's header cannot be read ({error})") from None
        if layout.blocks > _BLOCKS:
            raise TooSlow(
                f"the TIFF picture has {layout.blocks} strips or tiles, more than {_BLOCKS}; save it in larger ones"
            )
    elif start.startswith(b"\xff\xd8"):
        header = jpeg_header.read_header(file.read())
        if header.exif_bytes > _EXIF_BYTES:
            raise DamagedImage(f"the JPEG picture has {header.exif_bytes} bytes of EXIF, more than {_EXIF_BYTES}")
    file.seek(position)
    return layout, header


def _check_layout(file: IO[bytes], layout: tiff_layout.Layout, max_pixels: int) -> None:
    """Refuse a TIFF that costs more memory or time than its size explains. Nothing can stop libtiff once it runs."""
    if layout.pixels > max_pixels:
        raise TooManyPixels(f"the TIFF picture's tiles have {layout.pixels} pixels together, more than {max_pixels}")
    allowed = int(max_pixels * _DECODER_BYTES)
    if layout.memory > allowed:
        raise TooManyPixels(
            f"decoding the TIFF picture takes {layout.memory} bytes beside it, more than {allowed};"
            " save it in smaller strips or tiles"
        )
    size = _size(file)
    if layout.encoded_bytes > size:
        raise DamagedImage(
            f"the TIFF picture's strips or tiles have {layout.encoded_bytes} bytes, the file only {size}"
        )


def _size(file: IO[bytes]) -> int:
    position = file.tell()
    size = file.seek(0, SEEK_END)
    file.seek(position)
    return size


def _kept_coefficients(picture: JpegImageFile, header: jpeg_header.Header | None) -> float:
    """Return how many coefficients, of two bytes each, the decoder keeps for every pixel until the last scan."""
    if "progressive" not in picture.info and header is not None and header.components == picture.layers:
        return 0  # all colours in one scan
    sizes = [(down, across) for _, down, across, _ in picture.layer]
    largest = max((down for down, _ in sizes), default=1) * max((across for _, across in sizes), default=1)
    return sum(down * across for down, across in sizes) / max(largest, 1)


def _check_scans(file: IO[bytes], header: jpeg_header.Header | None, pixels: int) -> None:
    """Refuse a large JPEG with many scans: the decoder walks over all pixels for each, even if it has few bytes.

    Scans are counted by their marker, which cannot be part of the pixel data. Cameras and editors write ten scans.
    Further pictures in the same file (MPO) count as well.
    """
    allowed = max(_USUAL_SCANS, _SCANNED_PIXELS // pixels)
    if _size(file) < allowed:
        return  # it has not even a byte for each scan
    position = file.tell()
    file.seek(0)
    scans = file.read().count(_JPEG_SCAN, header.first_scan if header is not None else 0)
    file.seek(position)
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
    if len(picture.info.get("exif", b"")) > _EXIF_BYTES:
        return None  # Pillow would make an object of every value in it
    try:
        return _TURNS.get(picture.getexif().get(ExifTag.Orientation, 1))
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
    """How the stored values of a picture become RGB.

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
    does not say that it has an alpha channel.
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
            raise UnsupportedPixels(f"pixels of kind {picture.mode} cannot be read as RGB ({_reason(error)})") from None
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
        return 0, 65535
    highest = 4095 if tuple(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))) == (12,) else 65535
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    return (highest, 0) if white_is_zero else (0, highest)


def _reason(error: Exception) -> str:
    """Return an exception's message as part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
