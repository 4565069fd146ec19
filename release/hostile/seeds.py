"""Make the small pictures that are mutated: every format, and many kinds of each."""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from release.hostile.structures import PNG_SIGNATURE, png_chunk

WIDTH, HEIGHT = 40, 30


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return a picture as a file."""
    file = BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture of noise over a ramp, so that no decoder finds it trivial."""
    noise = np.random.default_rng(seed).integers(0, 64, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    ramp = np.linspace(0, 190, WIDTH, dtype=np.uint8)[None, :, None]
    rgb = Image.fromarray(noise + ramp)
    if mode == "RGBA":
        rgb.putalpha(rgb.convert("L"))
        return rgb
    if mode == "LA":
        return Image.merge("LA", (rgb.convert("L"), rgb.convert("L")))
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    return rgb.convert(mode)


def png(size: tuple[int, int], depth: int, colour: int, chunks: bytes = b"", interlaced: bool = False) -> bytes:
    """Return a black PNG of any kind.

    Args:
        size: (width, height) in pixels.
        depth: Bits a channel.
        colour: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        chunks: Whole chunks between the header and the pixels.
        interlaced: Whether the pixels come in Adam7's seven passes.
    """
    width, height = size
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    packer = zlib.compressobj(1)
    rows = b""
    for left, top, across, down in passes if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns <= 0 or lines <= 0:
            continue
        line = 1 + (columns * bits + 7) // 8
        together = max(1, (1 << 20) // line)
        block = bytes(line * together)
        for at in range(0, lines, together):
            rows += packer.compress(block[: line * min(together, lines - at)])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    rows += packer.flush()
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def tiff(data: bytes, tags: dict[int, Any], order: str = "<") -> bytes:
    """Return a TIFF of any kind. Its data, strips or tiles for instance, begin at byte 8.

    Args:
        data: Bytes that the tags point to.
        tags: A number for each tag, several numbers, or (type, count, value or offset), which is written unchanged.
        order: "<" little-endian, ">" big-endian.
    """
    start = 8 + len(data) + len(data) % 2
    beyond = start + 2 + 12 * len(tags) + 4
    entries, outside = b"", b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, tuple):
            entries += struct.pack(f"{order}HHLL", tag, *value)
            continue
        values = value if isinstance(value, list) else [value]
        kind, code = (3, "H") if max(values) < 65536 else (4, "L")
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            outside, packed = outside + packed, struct.pack(f"{order}L", beyond + len(outside))
        entries += struct.pack(f"{order}HHL", tag, kind, len(values)) + packed.ljust(4, b"\0")
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HL", 42, start)
    return (header + data).ljust(start, b"\0") + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + outside


def bmp(size: tuple[int, int], depth: int, compression: int, pixels: bytes) -> bytes:
    """Return a BMP with any header. The palette of 8 bits or fewer is grey.

    Args:
        size: (width, height) in pixels. A negative height is one from the top down.
        depth: Bits a pixel.
        compression: 0 none, 1 runs of bytes, 2 runs of half bytes, 3 masks.
        pixels: The pixels, encoded.
    """
    palette = b"".join(bytes([level, level, level, 0]) for level in range(1 << depth)) if depth <= 8 else b""
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F) if compression == 3 else b""
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, depth, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    start = 14 + len(head) + len(masks) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + head + masks + palette + pixels


def _frames(mode: str = "RGB") -> dict[str, Any]:
    return {"save_all": True, "append_images": [picture(mode, 1), picture(mode, 2)]}


def _exif(orientation: int = 6) -> bytes:
    return b"Exif\0\0" + tiff(b"", {274: orientation})


def _pngs() -> Iterator[bytes]:
    yield encode(picture(), "PNG")
    for mode in ("1", "L", "LA", "RGBA", "I;16", "P"):
        yield encode(picture(mode), "PNG")
    yield encode(picture("P"), "PNG", transparency=3)
    yield encode(picture(), "PNG", icc_profile=bytes(500), exif=_exif())
    yield encode(picture(), "PNG", **_frames())
    text = png_chunk(b"tEXt", b"a\0b") + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900)))
    text += png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(900))) + png_chunk(
        b"gAMA", bytes([0, 0, 0xB1, 0x8F])
    )
    yield png((WIDTH, HEIGHT), 8, 2, text)
    for depth, colour in ((1, 0), (2, 0), (4, 0), (16, 2), (16, 6), (16, 4)):
        yield png((WIDTH, HEIGHT), depth, colour, interlaced=depth != 2)
    yield png((WIDTH, HEIGHT), 4, 3, png_chunk(b"PLTE", bytes(range(48))) + png_chunk(b"tRNS", b"\0\x80"), True)


def _jpegs() -> Iterator[bytes]:
    for options in (
        {},
        {"progressive": True},
        {"progressive": True, "subsampling": "4:4:4"},
        {"subsampling": "4:2:2", "optimize": True},
        {"restart_marker_blocks": 2},
        {"exif": _exif(), "icc_profile": bytes(500), "comment": b"a comment"},
        {"quality": 100, "subsampling": "4:4:4"},
    ):
        yield encode(picture(), "JPEG", **options)
    for mode in ("L", "CMYK"):
        yield encode(picture(mode), "JPEG", progressive=mode == "CMYK")
    yield encode(picture("CMYK"), "JPEG")
    yield encode(picture(), "MPO", **_frames())


def _webps() -> Iterator[bytes]:
    yield encode(picture(), "WEBP")
    yield encode(picture(), "WEBP", lossless=True)
    yield encode(picture("RGBA"), "WEBP")
    yield encode(picture("RGBA"), "WEBP", lossless=True, exact=True)
    yield encode(picture(), "WEBP", exif=_exif(), icc_profile=bytes(500), xmp=bytes(100))
    yield encode(picture("RGBA"), "WEBP", duration=10, **_frames("RGBA"))
    yield encode(picture(), "WEBP", lossless=True, **_frames())


def gif(screen: tuple[int, int], frames: list[tuple[int, int, int]], codes: bytes = b"\2\2L\1\0") -> bytes:
    """Return a GIF with any screen and frames, whose pixels nearly all are missing.

    Args:
        screen: (width, height) in pixels.
        frames: (width, height, disposal) of each.
        codes: The compressed pixels of each frame.
    """
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0xF1, 1, 0) + bytes.fromhex("000000ff0000ff0000ff0000")
    for width, height, disposal in frames:
        head += struct.pack("<BBBBHBB", 0x21, 0xF9, 4, disposal << 2, 0, 0, 0)
        head += b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + codes
    return head + b";"


def _gifs() -> Iterator[bytes]:
    yield encode(picture(), "GIF")
    yield encode(picture("L"), "GIF", interlace=0)
    yield encode(picture("P"), "GIF", transparency=3, comment=b"a comment")
    yield encode(picture("1"), "GIF")
    for disposal in (1, 2, 3):
        yield encode(picture("P"), "GIF", duration=10, loop=0, disposal=disposal, **_frames("P"))
    for disposal in range(4):
        yield gif((WIDTH, HEIGHT), [(WIDTH // 2, HEIGHT // 2, disposal), (WIDTH, HEIGHT, disposal)])


def _bmps() -> Iterator[bytes]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield encode(picture(mode), "BMP")
    rows = bytes([WIDTH, 7, 0, 0]) * HEIGHT
    for depth, compression in ((8, 1), (4, 2)):
        yield bmp((WIDTH, HEIGHT), depth, compression, rows + b"\0\1")
        yield bmp((WIDTH, HEIGHT), depth, compression, rows[:-12] + b"\0\2\5\1" + b"\0\4abcd" + b"\0\1")
    yield bmp((WIDTH, -HEIGHT), 24, 0, bytes(3 * WIDTH * HEIGHT))
    yield bmp((WIDTH, HEIGHT), 16, 3, bytes(2 * WIDTH * HEIGHT))
    yield struct.pack("<2sIHHIIHHHH", b"BM", 26 + 3600, 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24) + bytes(3600)


def _tiffs() -> Iterator[bytes]:
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_jpeg", "zstd", "lzma"):
        yield encode(picture(), "TIFF", **({"compression": compression} if compression else {}))
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield encode(picture("1"), "TIFF", compression=compression)
    for mode in ("L", "P", "LA", "RGBA", "CMYK", "LAB", "I;16", "F"):
        yield encode(picture("RGB" if mode == "LAB" else mode), "TIFF", compression="tiff_lzw" if mode == "P" else None)
    yield encode(picture(), "TIFF", big_tiff=True)
    yield encode(picture(), "TIFF", **_frames())
    plain = {256: WIDTH, 257: HEIGHT, 259: 1, 277: 3, 278: HEIGHT, 258: [8, 8, 8], 262: 2}
    plane = WIDTH * HEIGHT
    for order, depth in (("<", 8), (">", 16)):
        each = plane * depth // 8
        places = {273: [8, 8 + each, 8 + 2 * each], 279: [each] * 3, 284: 2, 258: [depth] * 3}
        yield tiff(bytes(3 * each), plain | places, order)
    packed = zlib.compress(bytes(256))
    tiles = {322: 16, 323: 16, 324: [8] * 6, 325: [len(packed)] * 6, 259: 8, 258: 8, 277: 1, 262: 1}
    yield tiff(packed, {256: WIDTH, 257: HEIGHT, 274: 6} | tiles)
    packed = zlib.compress(bytes(4 * WIDTH))
    strips = {273: [8] * 8, 279: [len(packed)] * 8, 278: 4, 259: 8, 258: 8, 277: 1, 262: 0}
    yield tiff(packed, {256: WIDTH, 257: HEIGHT, 34675: (7, 300, 8)} | strips, ">")


def _avifs() -> Iterator[bytes]:
    fast = {"speed": 10, "max_threads": 1}
    yield encode(picture(), "AVIF", **fast)
    yield encode(picture(), "AVIF", subsampling="4:4:4", quality=100, **fast)
    yield encode(picture("L"), "AVIF", subsampling="4:0:0", **fast)
    yield encode(picture("RGBA"), "AVIF", **fast)
    yield encode(picture(), "AVIF", exif=_exif(), icc_profile=b"", xmp=bytes(100), **fast)
    yield encode(picture(), "AVIF", tile_rows=1, tile_cols=1, **fast)
    yield encode(picture(), "AVIF", **_frames(), **fast)


def _jpeg2000s() -> Iterator[bytes]:
    for mode in ("RGB", "L", "RGBA", "I;16"):
        yield encode(picture(mode), "JPEG2000")
    yield encode(picture(), "JPEG2000", no_jp2=True, irreversible=True)
    yield encode(picture(), "JPEG2000", tile_size=(16, 16), num_resolutions=2)
    yield encode(picture(), "JPEG2000", quality_mode="rates", quality_layers=[40, 20, 10], progression="RPCL")
    yield encode(picture(), "JPEG2000", codeblock_size=(4, 4), precinct_size=(16, 16), plt=True, comment="a comment")


def _ppms() -> Iterator[bytes]:
    for mode in ("1", "L", "RGB", "I;16"):
        yield encode(picture(mode), "PPM")
    head = f"# a comment\n{WIDTH} {HEIGHT}\n".encode()
    yield b"P1\n" + head + b"1 0 " * (WIDTH * HEIGHT // 2)
    yield b"P2\n" + head + b"7\n" + b"1 7 " * (WIDTH * HEIGHT // 2)
    yield b"P3\n" + head + b"65535\n" + b"9 60000 " * (3 * WIDTH * HEIGHT // 2)
    yield b"P6\n" + head + b"1023\n" + bytes(6 * WIDTH * HEIGHT)
    yield b"Pf\n" + f"{WIDTH} {HEIGHT}\n-1.0\n".encode() + bytes(4 * WIDTH * HEIGHT)


def _icos() -> Iterator[bytes]:
    square = picture("RGBA").resize((32, 32))
    yield encode(square, "ICO")
    yield encode(square, "ICO", bitmap_format="bmp")
    yield encode(square, "ICO", sizes=[(16, 16), (24, 24), (32, 32)])
    for mode in ("P", "1", "RGB"):
        yield encode(square.convert("RGB").convert(mode), "ICO", bitmap_format="bmp")


def _tgas() -> Iterator[bytes]:
    for mode in ("RGB", "L", "P", "RGBA", "LA", "1"):
        yield encode(picture(mode), "TGA")
        if mode != "1":
            yield encode(picture(mode), "TGA", compression="tga_rle", orientation=1)


def _qois() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA"):
        head = b"qoif" + struct.pack(">IIBB", WIDTH, HEIGHT, len(mode), 0)
        runs = bytes([0xC0 | 61]) * (WIDTH * HEIGHT // 62 + 1)
        pixels = b"".join(b"\xfe" + bytes(rgb) for rgb in ((1, 2, 3), (200, 100, 50))) + b"\x40\x80\x88\xa5\x12"
        yield head + pixels + runs + bytes(7) + b"\1"
        yield encode(picture(mode), "QOI")


def _ddss() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA", "L", "LA"):
        yield encode(picture(mode), "DDS")
    for name in ("DXT1", "DXT3", "DXT5", "BC2", "BC3"):
        yield encode(picture("RGBA"), "DDS", pixel_format=name)
    yield encode(picture("RGB"), "DDS", pixel_format="BC5")


def _heifs() -> Iterator[bytes]:
    try:
        import pillow_heif
    except ImportError:  # the extra `heic` is not installed; neither can the server read it
        return
    pillow_heif.register_heif_opener()
    for mode in ("RGB", "L", "RGBA"):
        yield encode(picture(mode), "HEIF", quality=60)
    yield encode(picture(), "HEIF", exif=_exif(), chroma=444)
    yield encode(picture(), "HEIF", **_frames())


_MAKERS: dict[str, Callable[[], Iterator[bytes]]] = {
    "PNG": _pngs,
    "JPEG": _jpegs,
    "WEBP": _webps,
    "GIF": _gifs,
    "BMP": _bmps,
    "TIFF": _tiffs,
    "AVIF": _avifs,
    "JPEG2000": _jpeg2000s,
    "PPM": _ppms,
    "ICO": _icos,
    "TGA": _tgas,
    "QOI": _qois,
    "DDS": _ddss,
    "HEIF": _heifs,
}
FORMATS = tuple(_MAKERS)
"""Formats that there are seeds of, by Pillow's names."""


@cache
def seeds(file_format: str) -> tuple[bytes, ...]:
    """Return the small pictures of a format, an ordinary one first. None where its encoder is not installed."""
    return tuple(_MAKERS[file_format]())
