"""Have Pillow read the pictures of every format rightly: what to do before it opens, after it opens and decodes one."""

from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

from PIL import AvifImagePlugin, Image

from sgn_serve.pictures import (
    colour_key,
    direct_draw,
    fast_decoders,
    icons,
    iso_media,
    jpeg2000,
    planes,
    png_chunks,
    targa,
    unfinished_jpeg,
)
from sgn_serve.pictures.errors import DamagedImage, UnsupportedPixels

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # every other decoder has one; pictures are decoded beside each other

_START = 300
"""Bytes that tell the format of a file."""
_PPM_EXTENSIONS = (b"P0", b"Py")
"""First bytes of files that only Pillow calls PPM, for its own tests."""
_KEY = "corrections"
_WHITE = 65535


@dataclass(frozen=True)
class PillowFile:
    """A file as Pillow is to open it.

    Attributes:
        file: The file, at its beginning.
        formats: Formats that it may have.
        icon: Whether it is a bitmap out of an ICO file.
        lacks_end: Position of the first scan of a JPEG whose missing end was put back; 0 for others.
    """

    file: IO[bytes]
    formats: tuple[str, ...]
    icon: bool = False
    lacks_end: int = 0


@dataclass(frozen=True)
class _Later:
    """Facts known when a picture is opened and needed when it is decoded.

    Attributes:
        opaque: Whether its alpha means nothing.
        keyed: Whether it is a PNG that colour_key has to hide a colour of.
        samples: Those of a JPEG 2000.
        data: The whole file of such a JPEG 2000 or PNG.
        file: The open file of a PNG.
    """

    opaque: bool = False
    keyed: bool = False
    samples: jpeg2000.Samples | None = None
    data: bytes = b""
    file: IO[bytes] | None = None


def prepare(file: IO[bytes], formats: tuple[str, ...]) -> PillowFile:
    """Choose what Pillow is given of a file, and as which formats it may read it.

    Args:
        file: The file, at its beginning.
        formats: Formats to accept, by Pillow's names.

    Raises:
        PictureRefused: The header of an ICO or JPEG 2000 cannot be read, or its pixels cannot.
    """
    position = file.tell()
    start = file.read(_START)
    file.seek(position)
    if start.startswith(png_chunks.SIGNATURE):
        shortened = png_chunks.without_texts(file.read())
        file.seek(position)
        return PillowFile(file if shortened is None else BytesIO(shortened), formats)
    if start.startswith(unfinished_jpeg.START):
        data = file.read()
        file.seek(position)
        first_scan = unfinished_jpeg.first_scan(data)
        ended = unfinished_jpeg.with_end(data, first_scan)
        return PillowFile(file, formats) if ended is None else PillowFile(BytesIO(ended), formats, lacks_end=first_scan)
    if start.startswith(icons.SIGNATURE) and "ICO" in formats:
        largest = icons.largest(file.read())
        if largest.startswith(png_chunks.SIGNATURE):
            return PillowFile(BytesIO(png_chunks.without_texts(largest) or largest), ("PNG",))
        return PillowFile(BytesIO(largest), ("ICO",), icon=True)
    said = iso_media.formats_of(start)
    if said is not None:
        return PillowFile(file, tuple(name for name in formats if name in said))
    unfit = set()
    if start.startswith(_PPM_EXTENSIONS):
        unfit.add("PPM")
    if not targa.is_targa(start):
        unfit.add("TGA")
    return PillowFile(file, tuple(name for name in formats if name not in unfit))


def correct(picture: Any, file: IO[bytes]) -> None:
    """Correct how an opened picture will be decoded.

    Args:
        picture: Opened and not decoded yet.
        file: Its file. It is left where it was.

    Raises:
        UnsupportedPixels: No decoder here reads it rightly.
        DamagedImage: A header that Pillow does not read is broken.
    """
    planes.correct(picture)
    if picture.format in ("BMP", "DDS", "PPM", "QOI"):
        fast_decoders.correct(picture)
    keyed = picture.format == "PNG" and colour_key.correct(picture)
    if picture.format == "PNG" and not keyed:
        picture.info[_KEY] = _Later(file=file)
    if not keyed and picture.format not in ("AVIF", "DDS", "JPEG2000", "TGA"):
        return
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    if keyed:
        picture.info[_KEY] = _Later(keyed=True, data=data, file=file)
    elif picture.format == "AVIF":
        if iso_media.is_cropped(data):
            raise UnsupportedPixels("the AVIF picture is cropped by a property of its file; save it cropped")
        picture.info.pop("xmp", None)  # it has no say in how the picture is turned
    elif picture.format == "DDS":
        picture.info[_KEY] = _Later(opaque=direct_draw.correct(picture, data))
    elif picture.format == "TGA":
        picture.info[_KEY] = _Later(opaque=targa.correct(picture, data))
    else:
        samples = jpeg2000.read_samples(data)
        jpeg2000.correct(picture, samples)
        picture.info[_KEY] = _Later(samples=samples, data=data)


def check_end(source: PillowFile) -> None:
    """Refuse a JPEG that lacks more than its end.

    Raises:
        DamagedImage: It does.
    """
    if not source.lacks_end:
        return
    assert isinstance(source.file, BytesIO)
    try:
        whole = unfinished_jpeg.is_whole(source.file.getvalue(), source.lacks_end)
    except Exception:  # Pillow's decoders raise exceptions of any kind for broken pixels
        whole = False
    if not whole:
        raise DamagedImage("the JPEG picture is truncated or damaged (it ends before its pixels do)")


def start(picture: Image.Image) -> None:
    """Correct a picture right before it is decoded. Its size may be another one until finish is called."""
    if picture.format == "TGA":
        targa.flatten(picture)


def finish(picture: Image.Image) -> None:
    """Correct the pixels of a decoded picture, in place.

    Raises:
        DamagedImage: A PNG or a JPEG 2000 picture has fewer pixels than its header says.
    """
    if picture.format == "TGA":
        targa.unflatten(picture)
    later = picture.info.get(_KEY)
    if not isinstance(later, _Later):
        return
    if later.file is not None and _may_lack_pixels(picture):
        later.file.seek(0)
        if png_chunks.lacks_pixels(later.file.read()):
            raise DamagedImage("its data end before its pixels do")
    if later.keyed:
        colour_key.hide(picture, later.data)
    if later.samples is not None:
        if jpeg2000.lacks_tiles(later.data):
            raise DamagedImage("its data end before its pixels do")
        jpeg2000.unwrap(picture, later.samples, later.data)
        jpeg2000.stretch(picture, later.samples)
    if later.opaque and picture.mode in ("LA", "RGBA"):
        picture.putalpha(255)


def _may_lack_pixels(picture: Image.Image) -> bool:
    """Return whether a decoded PNG may lack its last pixels, which Pillow leaves zero.

    The last pass of an interlaced picture has the last odd row, or every second pixel of a single row.
    """
    height = picture.size[1]
    if not picture.info.get("interlace"):
        return not _is_drawn(picture, height - 1)
    return height == 1 or not all(_is_drawn(picture, row) for row in (height - 2, height - 1))


def _is_drawn(picture: Image.Image, row: int) -> bool:
    """Return whether a row of a picture holds anything but zeros."""
    width = picture.size[0]
    pixel = picture.getpixel((width - 1, row))
    # The last pixel is decoded last. Mostly it tells enough, in a tenth of the time that a row takes.
    if any(pixel) if isinstance(pixel, tuple) else pixel:
        return True
    return any(picture.crop((0, row, width, row + 1)).tobytes())


def white(picture: Image.Image) -> int:
    """Return the value of white in a picture of a 16-bit mode, which is no TIFF."""
    later = picture.info.get(_KEY)
    if isinstance(later, _Later) and later.samples is not None:
        return jpeg2000.white(later.samples)
    if picture.format == "HEIF":
        depth = min(max(picture.info.get("bit_depth", 16), 1), 16)
        return ((1 << depth) - 1) << (16 - depth)
    return _WHITE
