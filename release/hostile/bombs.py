"""Construct picture files that cost a decoder far more than their size tells, each from a formula and one number.

Mutations of small pictures seldom reach them: a size that is just allowed needs pixels that go with it.
"""

import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from PIL import Image

from release.hostile.mutators import LARGEST_BYTES, MAX_PIXELS, size_of
from release.hostile.seeds import bmp, encode, gif, picture, png, seeds, tiff
from release.hostile.structures import STRUCTURES, Field, png_chunk

Bomb = Callable[[Random], bytes]

_LONGEST_ROWS = 100_000_000
"""Most bytes that a PNG here unpacks to."""
_COUNTS = (1, 10, 63, 64, 1000, 20_000, 200_000)
_UNPACKED = (100_000, 1_000_000, 1_500_000, 30_000_000, 100_000_000)


@cache
def _zeros(size: int) -> bytes:
    """Return that many zeros, compressed."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    packed = [packer.compress(block[: min(1 << 20, size - at)]) for at in range(0, size, 1 << 20)]
    return b"".join(packed) + packer.flush()


@cache
def _wide_letters(size: int) -> bytes:
    """Return a text of that many letters, compressed, for whose last one Python keeps four bytes for each letter."""
    return zlib.compress(b"a" * size + "\U0001f600".encode())


def _fit(piece: bytes, count: int, room: int = LARGEST_BYTES - 100_000) -> int:
    """Return how often a piece fits into a file, at most `count` times."""
    return max(1, min(count, room // max(1, len(piece))))


def _within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return a size with no side longer than a format allows, and of about the same area."""
    width, height = size
    area = width * height
    if width > longest:
        return longest, max(1, min(longest, area // longest))
    if height > longest:
        return max(1, min(longest, area // longest)), longest
    return size


def _flat(mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.new(mode, size, {"L": 90, "1": 1, "P": 3}.get(mode, (200, 30, 40, 100)[: len(mode)]))


def png_pixels(random: Random) -> bytes:
    """A PNG of any kind, whose size is just allowed or just not, and of any aspect."""
    depth, colour = random.choice(((8, 0), (8, 0), (8, 2), (8, 6), (8, 4), (16, 0), (16, 2), (1, 0), (16, 6), (8, 3)))
    width, height = size_of(random)
    bytes_each = depth / 8 * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if width * height * bytes_each > _LONGEST_ROWS or height > _LONGEST_ROWS // 2:
        depth, colour = 8, 0
    palette = png_chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return png((width, height), depth, colour, palette, random.random() < 0.3)


def png_metadata(random: Random) -> bytes:
    """A small PNG with many or large chunks of text, profile or EXIF, compressed or not."""
    packed = random.choice((_zeros, _wide_letters))(random.choice(_UNPACKED))
    exif = tiff(bytes(8 * 100_000), {274: (5, random.choice((1, 100_000)), 8), 296: 2})
    name, content = random.choice(
        (
            (b"zTXt", b"a\0\0" + packed),
            (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
            (b"iTXt", b"a\0\1\0\0\0" + packed),
            (b"iCCP", b"a\0\0" + packed),
            (b"tEXt", b"a\0b"),
            (b"tEXt", b"a\0" + bytes(1_000_000)),
            (b"eXIf", exif),
            (b"sPLT", b"a\0\x08" + bytes(100_000)),
        )
    )
    chunk = png_chunk(name, content)
    return png((32, 32), 8, 2, chunk * _fit(chunk, random.choice(_COUNTS)))


def png_data(random: Random) -> bytes:
    """A PNG whose pixels unpack to far more than they should, or come in many chunks."""
    head = png((random.choice((8, 5000)), 8), 8, 2)
    at = head.index(b"IDAT") - 4
    chunk = random.choice(
        (png_chunk(b"IDAT", _zeros(_UNPACKED[-1])), png_chunk(b"IDAT", b""), png_chunk(b"IDAT", b"\0"))
    )
    return head[:at] + chunk * _fit(chunk, random.choice(_COUNTS)) + head[at:]


def png_frames(random: Random) -> bytes:
    """An animated PNG with many frames."""
    size = random.choice(((16, 16), (1000, 1000)))
    frames = [_flat("RGB", size), *(Image.new("RGB", size, (level, 0, 0)) for level in range(random.choice((2, 30))))]
    return encode(frames[0], "PNG", save_all=True, append_images=frames[1:])


def jpeg_pixels(random: Random) -> bytes:
    """A JPEG of a size that is just allowed, of any kind."""
    mode = random.choice(("L", "RGB", "RGB", "CMYK"))
    options: dict[str, Any] = {"progressive": random.random() < 0.5, "quality": 10}
    if mode == "RGB":
        options["subsampling"] = random.choice(("4:2:0", "4:4:4"))
    return encode(_flat(mode, _within(size_of(random), 65_500)), "JPEG", **options)


def jpeg_scans(random: Random) -> bytes:
    """A progressive JPEG with many scans."""
    size = random.choice(((40, 30), (1000, 1000), (4000, 4000)))
    data = encode(_flat("L", size), "JPEG", progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
    return data[:-2] + scan * random.choice((1, 11, 100, 10_000)) + data[-2:]


def jpeg_segments(random: Random) -> bytes:
    """A small JPEG with many segments, empty or full, of any kind."""
    data = encode(picture(), "JPEG")
    marker = random.choice((0xE0, 0xE1, 0xE2, 0xED, 0xFE, 0xDB, 0xC4, 0xDD))
    start = random.choice(
        (b"", b"Exif\0\0MM\0*", b"ICC_PROFILE\0\1\1", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0II*\0")
    )
    segment = struct.pack(">BBH", 0xFF, marker, 0) + start + bytes(random.choice((0, 64, 65_000)))
    segment = segment[:2] + struct.pack(">H", len(segment) - 2) + segment[4:]
    return data[:2] + segment * _fit(segment, random.choice(_COUNTS)) + data[2:]


def gif_screen(random: Random) -> bytes:
    """A GIF of some fifty bytes with a huge screen, and a first frame that is huge too, or small."""
    screen = random.choice((_within(size_of(random), 65_535), (65_535, 65_535), (20_000, 20_000)))
    frame = random.choice((screen, (1, 1), (65_535, 65_535)))
    return gif(screen, [(*frame, random.randrange(8))] * random.choice((1, 1, 2, 50)))


def gif_pixels(random: Random) -> bytes:
    """A GIF of a size that is just allowed, with all its pixels."""
    return encode(_flat("L", _within(size_of(random), 65_535)), "GIF", interlace=random.randrange(2))


def gif_blocks(random: Random) -> bytes:
    """A GIF with many frames, comments or control blocks."""
    data = encode(picture("P"), "GIF")
    parts = STRUCTURES["GIF"].split(data)
    control = b"\x21\xf9\x04\x08\0\0\0\0"
    block = random.choice((b"\x21\xfe\1a\0", b"\x21\xfe" + (b"\xff" + bytes(255)) * 100 + b"\0", control, parts[-2]))
    return parts[0] + block * _fit(block, random.choice(_COUNTS)) + b"".join(parts[1:])


def tiff_pixels(random: Random) -> bytes:
    """A TIFF of a size that is just allowed, of any depth, in few or many strips that share their data."""
    width, height = size_of(random)
    samples, depth = random.choice(((1, 8), (1, 8), (3, 8), (4, 8), (1, 16), (3, 16), (1, 1)))
    rows = random.choice((1, 16, 1000, height))
    rows = min(rows, height)
    line = (width * samples * depth + 7) // 8
    if line * rows > _LONGEST_ROWS:
        rows = max(1, _LONGEST_ROWS // line)
    count = -(-height // rows)
    strip = _zeros(line * rows)
    room = min(count, 1_000_000)
    planar = random.choice((1, 1, 2)) if samples > 1 else 1
    photometric = {1: random.choice((0, 1)), 3: random.choice((2, 6, 8)), 4: random.choice((2, 5))}[samples]
    tags = {256: width, 257: height, 258: [depth] * samples, 259: 8, 262: photometric, 277: samples, 278: rows}
    places = room * (samples if planar == 2 else 1)
    return tiff(strip, tags | {284: planar, 273: [8] * places, 279: [len(strip)] * places})


def tiff_tiles(random: Random) -> bytes:
    """A TIFF whose tiles are far larger, or far more, than its picture."""
    tile = random.choice(((16, 16), (18_000, 18_000), (16, 1_000_000), (4096, 4096), (50_000, 496)))
    size = random.choice(((16, 16), (5000, 5000), (25_000_000, 1), (60_000, 16)))
    packed = _zeros(min(tile[0] * tile[1], _LONGEST_ROWS))
    count = min(-(-size[0] // tile[0]) * -(-size[1] // tile[1]), 1_000_000)
    tags = {256: size[0], 257: size[1], 258: 8, 259: 8, 262: 1, 322: tile[0], 323: tile[1]}
    return tiff(packed, tags | {324: [8] * count, 325: [len(packed)] * count})


def tiff_tags(random: Random) -> bytes:
    """A small TIFF with tags of millions of values, or with many directories."""
    plain = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    values = random.choice((10, 100_000, 1_000_000))
    data = bytes(min(8 * values, 8_000_000))
    if random.random() < 0.3:
        one = tiff(bytes(64), plain)
        start = struct.unpack_from("<I", one, 4)[0]
        directory = one[start : start + 2 + 12 * len(plain)]
        count = random.choice((2, 1000, 50_000))
        chain = b"".join(
            directory + struct.pack("<I", start + (number + 1) * (len(directory) + 4)) for number in range(count)
        )
        return one[:start] + chain
    tag = random.choice((273, 279, 282, 270, 320, 330, 700, 34675, 34665, 33723, 40_000))
    tags = {tag + step: (random.choice((1, 2, 3, 4, 5, 7)), values, 8) for step in range(random.choice((1, 1, 100)))}
    return tiff(data, plain | tags)


def bmp_runs(random: Random) -> bytes:
    """A run-length BMP: jumps, runs, or pixels one by one, over a size that is just allowed."""
    size = size_of(random)
    depth, compression = random.choice(((8, 1), (8, 1), (4, 2)))
    code = random.choice(
        (b"\0\2\xff\0", b"\0\2\0\xff", b"\0\2\xff\xff", b"\0\2\0\0", b"\xff\7", b"\1\7", b"\0\3abc\0", b"\0\0")
    )
    return bmp(size, depth, compression, code * _fit(code, random.choice((20, 1000, 150_000, 600_000)), 2_000_000))


def bmp_pixels(random: Random) -> bytes:
    """A BMP without compression, with all its pixels or with few of them."""
    depth = random.choice((1, 4, 8, 16, 24, 32))
    width, height = size_of(random)
    line = (width * depth + 31) // 32 * 4
    return bmp(
        (width, random.choice((1, -1)) * height), depth, 0, bytes(random.choice((100, min(line * height, 10_000_000))))
    )


def webp_pixels(random: Random) -> bytes:
    """A WebP of a size that is just allowed."""
    width, height = _within(size_of(random), 16_383)
    mode, lossless = random.choice(("RGB", "RGBA")), random.random() < 0.7
    if not lossless:
        height = max(1, min(height, 2_500_000 // width))  # the encoder takes a second for four of them
    return encode(_flat(mode, (width, height)), "WEBP", lossless=lossless, method=0, quality=10)


def webp_frames(random: Random) -> bytes:
    """An animated WebP with a large canvas and many frames, or with large metadata."""
    if random.random() < 0.3:
        return encode(
            picture(), "WEBP", exif=b"Exif\0\0" + bytes(random.choice((1000, 8_000_000))), xmp=bytes(1_000_000)
        )
    size = random.choice(((16, 16), (1000, 1000), (3000, 3000)))
    frames = [Image.new("RGB", size, (level, 0, 0)) for level in range(random.choice((2, 4)))]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)
    structure = STRUCTURES["WEBP"]
    parts = structure.split(data)
    parts[-1:] = parts[-1:] * _fit(parts[-1], random.choice((1, 10, 2000)))
    return structure.finish(b"".join(parts))


def avif_pixels(random: Random) -> bytes:
    """An AVIF of up to two megapixels, of any aspect."""
    area = random.choice((100_000, 1_000_000, 2_000_000))
    side = random.choice((50, 100, 1000))
    return encode(_flat(random.choice(("L", "RGB")), (side, area // side)), "AVIF", speed=10, quality=10)


def avif_frames(random: Random) -> bytes:
    """An AVIF with many frames."""
    frames = [Image.new("RGB", (64, 64), (level, 0, 0)) for level in range(random.choice((2, 50)))]
    return encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)


@cache
def _encoded(file_format: str, mode: str, side: int) -> bytes:
    """Return a square picture as a file. The encoders take seconds for the largest."""
    return encode(
        _flat(mode, (side, side)), file_format, quality=10, **({"speed": 10} if file_format == "AVIF" else {})
    )


def avif_large(random: Random) -> bytes:
    """An AVIF of up to as many pixels as are allowed."""
    return _encoded("AVIF", *random.choice((("L", 5000), ("RGB", 4000), ("RGB", 5000), ("RGBA", 5000))))


def jpeg2000_pixels(random: Random) -> bytes:
    """A JPEG 2000 of about a megapixel, in one tile or in thousands."""
    side = random.choice((10, 100, 1000))
    tile = random.choice(((), (128, 128), (16, 16)))
    options = {"tile_size": tile} if tile and side >= 100 else {}
    return encode(_flat(random.choice(("L", "RGB")), (side, 400_000 // side)), "JPEG2000", **options)


def jpeg2000_size(random: Random) -> bytes:
    """A JPEG 2000 whose header declares a size that is just allowed, tiles of a few pixels, or many components."""
    data = random.choice(seeds("JPEG2000"))
    width, height = size_of(random)
    at = data.index(b"\xff\x4f\xff\x51") + 8
    tile = random.choice(((width, height), (1, 1), (64, 64), (width, 1), (1000, 1000)))
    for place, value in enumerate((width, height, 0, 0, *tile, 0, 0)):
        data = Field(at + 4 * place, 4, ">").write(data, value)
    header = data.find(b"ihdr")
    if header > 0:
        data = Field(header + 4, 4, ">").write(Field(header + 8, 4, ">").write(data, width), height)
    return data


def ppm_pixels(random: Random) -> bytes:
    """A portable pixmap of any kind and of a size that is just allowed, with all its pixels or with few of them."""
    width, height = size_of(random)
    kind = random.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P5", b"P6", b"Pf"))
    most = {b"P4": b"", b"P1": b"", b"Pf": b"-1.0\n"}.get(kind, random.choice((b"255\n", b"7\n", b"65535\n")))
    pixels = random.choice((b"0 ", b"1 ", b"7\n")) if kind in (b"P1", b"P2", b"P3") else b"\0"
    count = random.choice((100, LARGEST_BYTES - 1000))
    comment = b"# " + b"a" * random.choice((0, 0, 1_000_000)) + b"\n"
    return (kind + b"\n" + comment + b"%d %d\n" % (width, height) + most + pixels * (count // len(pixels)))[
        :LARGEST_BYTES
    ]


def ico_entries(random: Random) -> bytes:
    """An icon with many entries, or one that is a PNG or BMP of a size that is just allowed."""
    width, height = size_of(random)
    inner = random.choice(
        (
            png((width, height), 8, 0),
            png((32, 32), 8, 6),
            struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, *[0] * 6),
        )
    )
    count = random.choice((1, 1, 1000, 65_535))
    entry = struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(inner), 6 + 16 * count)
    return struct.pack("<HHH", 0, 1, count) + entry * count + inner


def tga_pixels(random: Random) -> bytes:
    """A TGA of a size that is just allowed, whose pixels are runs, or missing."""
    width, height = _within(size_of(random), 65_535)
    depth, kind = random.choice(((8, 11), (24, 10), (32, 10), (16, 10), (8, 3), (24, 2)))
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, width, height, depth, random.choice((0, 0x20)))
    run = b"\xff" + bytes(depth // 8)
    return head + (run * _fit(run, width * height // 128 + 1) if kind > 9 else bytes(random.choice((10, 9_000_000))))


def qoi_pixels(random: Random) -> bytes:
    """A QOI of a size that is just allowed, whose pixels are runs, or missing."""
    width, height = size_of(random)
    head = b"qoif" + struct.pack(">IIBB", width, height, random.choice((3, 4)), 0)
    code = random.choice((b"\xfd", b"\xfd", b"\0", b"\x40"))
    return (
        head
        + code * min(width * height // (62 if code == b"\xfd" else 1) + 1, random.choice((10, 9_000_000)))
        + bytes(8)
    )


def dds_pixels(random: Random) -> bytes:
    """A DDS of a size that is just allowed, of any compression, with all its pixels or with few of them."""
    width, height = size_of(random)
    data = random.choice(seeds("DDS"))
    data = Field(12, 4, "<").write(data, height)
    data = Field(16, 4, "<").write(data, width)
    return data[:148] + bytes(random.choice((100, 9_000_000)))


def heif_pixels(random: Random) -> bytes:
    """An HEIF of up to as many pixels as are allowed."""
    return _encoded("HEIF", *random.choice((("RGBA", 1500), ("RGB", 2500), ("RGB", 5000)))) if seeds("HEIF") else b""


def heif_size(random: Random) -> bytes:
    """An HEIF that declares a size that is just allowed."""
    data = random.choice(seeds("HEIF") or (b"",))
    at = data.find(b"ispe")
    width, height = size_of(random)
    return Field(at + 12, 4, ">").write(Field(at + 8, 4, ">").write(data, width), height) if at > 0 else data


BOMBS: dict[str, dict[str, Bomb]] = {
    file_format: {bomb.__name__: bomb for bomb in bombs}
    for file_format, bombs in {
        "PNG": (png_pixels, png_metadata, png_data, png_frames),
        "JPEG": (jpeg_pixels, jpeg_scans, jpeg_segments),
        "WEBP": (webp_pixels, webp_frames),
        "GIF": (gif_screen, gif_pixels, gif_blocks),
        "BMP": (bmp_runs, bmp_pixels),
        "TIFF": (tiff_pixels, tiff_tiles, tiff_tags),
        "AVIF": (avif_pixels, avif_large, avif_frames),
        "JPEG2000": (jpeg2000_pixels, jpeg2000_size),
        "PPM": (ppm_pixels,),
        "ICO": (ico_entries,),
        "TGA": (tga_pixels,),
        "QOI": (qoi_pixels,),
        "DDS": (dds_pixels,),
        "HEIF": (heif_size, heif_pixels),
    }.items()
}
"""The bombs of each format, by Pillow's name of it."""


def bomb(file_format: str, name: str, number: int) -> bytes:
    """Return a constructed file, at most as large as a server takes.

    Args:
        file_format: A key of BOMBS.
        name: A key of what is there.
        number: Seed of the file.
    """
    return BOMBS[file_format][name](Random(number))[:LARGEST_BYTES]


assert MAX_PIXELS * 4 <= _LONGEST_ROWS, "an 8-bit picture of every kind can have all its pixels"
