"""Make one picture in many forms: turned, of other depths and colour models, transparent, interlaced, animated.

Each is paired with the RGB that a reader should find in it.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from release.hostile.seeds import tiff
from release.hostile.structures import png_chunk
from tests.sgn_serve.sample_pictures import TIFF_DATA, encode

RGB = NDArray[np.uint8]
WHITE = (255, 255, 255)

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a picture is stored whose EXIF orientation turns it back."""


@dataclass(frozen=True)
class OddPicture:
    """A file and what is in it.

    Attributes:
        name: Name of the file, with its suffix.
        data: The file.
        expected: (H, W, 3).
        tolerance: Largest mean difference from it, in units of 1/255. 0 asks for equality.
    """

    name: str
    data: bytes
    expected: RGB
    tolerance: float = 0.0


def odd_pictures(rgb: RGB) -> list[OddPicture]:
    """Return the picture in every form.

    Args:
        rgb: (H, W, 3), of even sides.
    """
    made = [*_turned(rgb), *_pngs(rgb), *_jpegs(rgb), *_gifs(rgb), *_webps(rgb), *_bmps(rgb), *_tiffs(rgb)]
    assert len({odd.name for odd in made}) == len(made)
    return made


def grey_of(rgb: RGB) -> RGB:
    """Return the luma of a picture, (H, W)."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def as_rgb(grey: NDArray[np.integer]) -> RGB:
    """Return a grey picture (H, W) as RGB."""
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def deep_samples(values: NDArray[np.integer], depth: int) -> NDArray[np.int64]:
    """Return 8-bit samples as samples of another depth."""
    return np.rint(values.astype(np.int64) * ((1 << depth) - 1) / 255).astype(np.int64)


def shallow_samples(values: NDArray[np.integer], depth: int) -> RGB:
    """Return samples of another depth as 8-bit samples."""
    return np.rint(values.astype(np.int64) * 255 / ((1 << depth) - 1)).astype(np.uint8)


def half_transparent(rgb: RGB) -> tuple[RGB, RGB]:
    """Return an alpha channel (H, W) that hides the upper half of a picture, and what is seen of it before white."""
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[: len(alpha) // 2] = 0
    return alpha, np.where(alpha[..., None] == 0, 255, rgb).astype(np.uint8)


def _packed(samples: NDArray[np.integer], depth: int, order: str = ">") -> list[bytes]:
    """Return the bytes of each row of samples (H, samples)."""
    if depth in (8, 16):
        return [row.tobytes() for row in samples.astype(f"{order}u{depth // 8}")]
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in bits]


def _turned(rgb: RGB) -> Iterator[OddPicture]:
    formats = {"JPEG": ("jpg", {"quality": 95, "subsampling": "4:4:4"}, 4.0), "PNG": ("png", {}, 0.0)}
    formats |= {"WEBP": ("webp", {"lossless": True}, 0.0), "TIFF": ("tif", {}, 0.0)}
    for orientation, stored in STORED.items():
        picture = Image.fromarray(rgb) if stored is None else Image.fromarray(rgb).transpose(stored)
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name, (suffix, options, tolerance) in formats.items():
            data = encode(picture, name, exif=exif, **options)
            yield OddPicture(f"exif{orientation}.{suffix}", data, rgb, tolerance)


def write_png(
    samples: NDArray[np.integer],
    depth: int,
    colour: int,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
    adam7: bool = False,
) -> bytes:
    """Write a PNG of any depth and colour type, interlaced or not, which Pillow does not.

    Args:
        samples: (H, W, channels).
        depth: Bits of a sample.
        colour: PNG's colour type.
        chunks: Names and contents of chunks before the pixels.
        adam7: Whether to interlace.
    """
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if adam7:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for row, column, down, across in passes:
        part = samples[row::down, column::across]
        if part.size:
            rows += b"".join(b"\0" + line for line in _packed(part.reshape(part.shape[0], -1), depth))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(adam7))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in parts)


def _pngs(rgb: RGB) -> Iterator[OddPicture]:
    grey = grey_of(rgb)
    opaque = np.full((*grey.shape, 1), 255, np.uint8)
    half = opaque.copy()
    half[: len(half) // 2] = 0
    for adam7 in (False, True):
        how = "_adam7" if adam7 else ""
        for depth in (1, 2, 4, 8, 16):
            deep = deep_samples(grey, depth)
            expected = as_rgb(shallow_samples(deep, depth))
            yield OddPicture(f"grey{depth}{how}.png", write_png(deep[..., None], depth, 0, adam7=adam7), expected)
        for depth in (1, 2, 4, 8):
            index = deep_samples(grey, depth)
            ramp = np.arange(1 << depth) * 255 // ((1 << depth) - 1)
            palette = np.stack([ramp, 255 - ramp, ramp // 2], axis=1).astype(np.uint8)
            chunks = ((b"PLTE", palette.tobytes()),)
            data = write_png(index[..., None], depth, 3, chunks, adam7)
            yield OddPicture(f"palette{depth}{how}.png", data, palette[index])
            seen_through = index == 1
            expected = np.where(seen_through[..., None], 255, palette[index]).astype(np.uint8)
            data = write_png(index[..., None], depth, 3, (*chunks, (b"tRNS", b"\xff\0")), adam7)
            yield OddPicture(f"palette{depth}_trns{how}.png", data, expected)
        for depth in (1, 2, 4):
            deep = deep_samples(grey, depth)
            below = np.where((deep == 1)[..., None], 255, as_rgb(shallow_samples(deep, depth))).astype(np.uint8)
            data = write_png(deep[..., None], depth, 0, ((b"tRNS", b"\0\1"),), adam7)
            yield OddPicture(f"grey{depth}_trns{how}.png", data, below)
        # Half of the key's pixels differ from it in the low byte only.
        deep = deep_samples(rgb, 16) // 256 * 256 + 7
        deep[:, ::2] += 80
        hidden = (deep == deep[0, 0]).all(axis=2, keepdims=True)
        key = (b"tRNS", deep[0, 0].astype(">u2").tobytes())
        below = np.where(hidden, 255, rgb).astype(np.uint8)
        yield OddPicture(f"rgb16_trns_low{how}.png", write_png(deep, 16, 2, (key,), adam7), below)
        for depth in (8, 16):
            data = write_png(deep_samples(rgb, depth), depth, 2, adam7=adam7)
            yield OddPicture(f"rgb{depth}{how}.png", data, rgb)
            for alpha, kind in ((opaque, "opaque"), (half, "half")):
                below = np.where(alpha == 0, 255, rgb).astype(np.uint8)
                data = write_png(deep_samples(np.concatenate([rgb, alpha], axis=2), depth), depth, 6, adam7=adam7)
                yield OddPicture(f"rgba{depth}_{kind}{how}.png", data, below)
                below = np.where(alpha == 0, 255, as_rgb(grey)).astype(np.uint8)
                data = write_png(deep_samples(np.stack([grey, alpha[..., 0]], axis=2), depth), depth, 4, adam7=adam7)
                yield OddPicture(f"la{depth}_{kind}{how}.png", data, below)
            first = rgb[0, 0]
            below = np.where((rgb == first).all(axis=2, keepdims=True), 255, rgb).astype(np.uint8)
            key = (b"tRNS", deep_samples(first, depth).astype(">u2").tobytes())
            yield OddPicture(
                f"rgb{depth}_trns{how}.png", write_png(deep_samples(rgb, depth), depth, 2, (key,), adam7), below
            )
            below = np.where((grey == grey[0, 0])[..., None], 255, as_rgb(grey)).astype(np.uint8)
            key = (b"tRNS", deep_samples(grey[:1, 0], depth).astype(">u2").tobytes())
            data = write_png(deep_samples(grey, depth)[..., None], depth, 0, (key,), adam7)
            yield OddPicture(f"grey{depth}_trns{how}.png", data, below)
    for gamma in (22727, 60000, 100000):
        # A sample of a picture in sRGB, to the power of this, is a sample of a picture of that gamma.
        stored = np.rint((rgb / 255) ** (gamma / 45455) * 65535).astype(np.int64)
        data = write_png(stored, 16, 2, ((b"gAMA", struct.pack(">I", gamma)),))
        yield OddPicture(f"gamma{gamma}.png", data, rgb, 2.0)
    frames = [Image.fromarray(rgb), Image.new("RGB", (rgb.shape[1], rgb.shape[0]))]
    yield OddPicture("animated.png", encode(frames[0], "PNG", save_all=True, append_images=frames[1:]), rgb)


def without_adobe_mark(jpeg: bytes) -> bytes:
    """Return a JPEG without the segment in which Adobe's programs say how the colours are stored."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + struct.unpack_from(">H", jpeg, at + 2)[0] :]


def _jpegs(rgb: RGB) -> Iterator[OddPicture]:
    picture = Image.fromarray(rgb)
    cmyk = encode(picture.convert("CMYK"), "JPEG", quality=95)
    yield OddPicture("cmyk_adobe.jpg", cmyk, rgb, 4.0)
    yield OddPicture("cmyk.jpg", without_adobe_mark(cmyk), rgb, 4.0)
    yield OddPicture("grey.jpg", encode(picture.convert("L"), "JPEG", quality=95), as_rgb(grey_of(rgb)), 4.0)
    for subsampling, progressive in product(("4:4:4", "4:2:2", "4:2:0"), (False, True)):
        data = encode(picture, "JPEG", quality=95, subsampling=subsampling, progressive=progressive)
        name = f"{subsampling.replace(':', '')}{'_progressive' if progressive else ''}.jpg"
        yield OddPicture(name, data, rgb, 8.0)
    yield OddPicture("first.mpo", encode(picture, "MPO", save_all=True, append_images=[picture], quality=95), rgb, 8.0)


def write_gif(
    index: NDArray[np.integer], palette: RGB, screen: tuple[int, int], place: tuple[int, int], background: int
) -> bytes:
    """Write a GIF whose only frame covers a part of its screen, which Pillow does not.

    Args:
        index: (H, W), below 128.
        palette: (128, 3).
        screen: (height, width).
        place: Row and column of the frame's first pixel.
        background: Index of the screen's colour.
    """
    height, width = index.shape
    header = b"GIF89a" + struct.pack("<HHBBB", screen[1], screen[0], 0x80 | 6, background, 0) + palette.tobytes()
    frame = b"," + struct.pack("<HHHHB", place[1], place[0], width, height, 0)
    # Codes of 8 bits. Beginning the table anew every 100 pixels keeps them as short.
    codes: list[int] = []
    for at in range(0, index.size, 100):
        codes += [0x80, *index.ravel()[at : at + 100].tolist()]
    encoded = bytes([*codes, 0x81])
    blocks = b"".join(
        bytes([len(encoded[at : at + 255])]) + encoded[at : at + 255] for at in range(0, len(encoded), 255)
    )
    return header + frame + b"\x07" + blocks + b"\0;"


def _gifs(rgb: RGB) -> Iterator[OddPicture]:
    index = grey_of(rgb) // 2
    ramp = np.arange(128)
    palette = np.stack([ramp * 2, 255 - ramp, ramp], axis=1).astype(np.uint8)
    shown = palette[index]
    yield OddPicture("whole.gif", write_gif(index, palette, index.shape, (0, 0), 5), shown)
    height, width = index.shape
    part = index[4 : height - 3, 6 : width - 1]
    around = np.full_like(rgb, 255)
    around[4 : height - 3, 6 : width - 1] = palette[part]
    yield OddPicture("part.gif", write_gif(part, palette, index.shape, (4, 6), 5), around)
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(palette.tobytes())
    for interlace in (0, 1):
        yield OddPicture(f"interlace{interlace}.gif", encode(picture, "GIF", interlace=interlace), shown)
    first = int(index[0, 0])
    below = np.where((index == first)[..., None], 255, shown).astype(np.uint8)
    yield OddPicture("transparent.gif", encode(picture, "GIF", transparency=first), below)
    frames = [Image.new("P", picture.size)]
    yield OddPicture("animated.gif", encode(picture, "GIF", save_all=True, append_images=frames), shown)
    yield OddPicture("grey.gif", encode(Image.fromarray(rgb).convert("L"), "GIF"), as_rgb(grey_of(rgb)))


def write_webp(frame: bytes, canvas: tuple[int, int], place: tuple[int, int], size: tuple[int, int]) -> bytes:
    """Write an animated WebP, said to have no alpha, whose only frame covers a part of its canvas.

    Args:
        frame: A WebP file of one picture.
        canvas: (height, width).
        place: Row and column of the frame's first pixel, both even.
        size: (height, width) of the frame.
    """

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<L", len(content)) + content + bytes(len(content) % 2)

    where = number(place[1] // 2) + number(place[0] // 2) + number(size[1] - 1) + number(size[0] - 1)
    content = b"WEBP" + chunk(b"VP8X", b"\x02\0\0\0" + number(canvas[1] - 1) + number(canvas[0] - 1))
    content += chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", where + number(100) + b"\0" + frame[12:])
    return b"RIFF" + struct.pack("<L", len(content)) + content


def _webps(rgb: RGB) -> Iterator[OddPicture]:
    picture = Image.fromarray(rgb)
    lossless = {"lossless": True, "exact": True}
    yield OddPicture("lossless.webp", encode(picture, "WEBP", **lossless), rgb)
    yield OddPicture("lossy.webp", encode(picture, "WEBP", quality=95), rgb, 10.0)
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[: len(alpha) // 2] = 0
    layer = Image.fromarray(np.dstack([rgb, alpha]))
    below = np.where(alpha[..., None] == 0, 255, rgb).astype(np.uint8)
    yield OddPicture("alpha.webp", encode(layer, "WEBP", **lossless), below)
    height, width = rgb.shape[:2]
    frame = encode(Image.fromarray(rgb[4 : height - 2, 6:]), "WEBP", quality=100)
    around = np.full_like(rgb, 255)
    around[4 : height - 2, 6:] = rgb[4 : height - 2, 6:]
    yield OddPicture("part.webp", write_webp(frame, (height, width), (4, 6), (height - 6, width - 6)), around, 10.0)
    frames = [Image.new("RGB", picture.size)]
    yield OddPicture("animated.webp", encode(picture, "WEBP", save_all=True, append_images=frames, **lossless), rgb)


def _bmps(rgb: RGB) -> Iterator[OddPicture]:
    picture = Image.fromarray(rgb)
    yield OddPicture("24.bmp", encode(picture, "BMP"), rgb)
    yield OddPicture("8.bmp", encode(picture.convert("L"), "BMP"), as_rgb(grey_of(rgb)))
    two = (grey_of(rgb) > 127) * 255
    yield OddPicture("1.bmp", encode(Image.fromarray(two.astype(np.uint8)).convert("1"), "BMP"), as_rgb(two))


def write_tiff(
    channels: Sequence[NDArray[np.integer]],
    depth: int,
    photometric: int,
    order: str = "<",
    planar: bool = False,
    **more: int,
) -> bytes:
    """Write a TIFF of any depth, with interleaved samples or with separate planes.

    Args:
        channels: Samples (H, W) of each.
        depth: Bits of a sample.
        photometric: Tag 262.
        order: "<" little-endian, ">" big-endian.
        planar: Whether the planes are separate.
        more: "compression" 1 or 8, "fill_order" 1 or 2; "t338=2" gives a further tag.
    """
    height, width = channels[0].shape
    compression, fill_order = more.pop("compression", 1), more.pop("fill_order", 1)
    planes = channels if planar else [np.stack(channels, axis=-1).reshape(height, -1)]
    strips = [b"".join(_packed(plane, depth, order)) for plane in planes]
    if compression == 8:
        strips = [zlib.compress(strip) for strip in strips]
    if fill_order == 2:
        strips = [strip.translate(bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))) for strip in strips]
    offsets, data = [], b""
    for strip in strips:
        offsets.append(TIFF_DATA + len(data))
        data += strip + bytes(len(strip) % 2)
    tags = {256: width, 257: height, 258: [depth] * len(channels), 259: compression, 262: photometric, 273: offsets}
    tags |= {277: len(channels), 278: height, 279: [len(strip) for strip in strips], 284: 1 + planar, 266: fill_order}
    if photometric == 3:
        ramp = np.arange(1 << depth) * 255 // ((1 << depth) - 1)
        tags[320] = [int(value) * 257 for colour in (ramp, 255 - ramp, ramp // 2) for value in colour]
    return tiff(data, tags | {int(tag[1:]): value for tag, value in more.items()}, order)


def _tiffs(rgb: RGB) -> Iterator[OddPicture]:
    grey = grey_of(rgb)
    for order, planar, compression in product("<>", (False, True), (1, 8)):
        how = f"{'le' if order == '<' else 'be'}_{'planar' if planar else 'chunky'}_{compression}"
        for depth in (1, 2, 4, 8, 16):
            top, deep = (1 << depth) - 1, deep_samples(grey, depth)
            expected = as_rgb(shallow_samples(deep, depth))
            data = write_tiff([deep], depth, 1, order, planar, compression=compression)
            yield OddPicture(f"grey{depth}_{how}.tif", data, expected)
            data = write_tiff([top - deep], depth, 0, order, planar, compression=compression)
            yield OddPicture(f"white_is_zero{depth}_{how}.tif", data, expected, 1.0)
            if depth < 16:
                ramp = np.arange(top + 1) * 255 // top
                palette = np.stack([ramp, 255 - ramp, ramp // 2], axis=1).astype(np.uint8)
                data = write_tiff([deep], depth, 3, order, planar, compression=compression)
                yield OddPicture(f"palette{depth}_{how}.tif", data, palette[deep])
        if order == "<":
            deep = deep_samples(grey, 12)
            data = write_tiff([deep], 12, 1, order, planar, compression=compression)
            yield OddPicture(f"grey12_{how}.tif", data, as_rgb(shallow_samples(deep, 12)), 1.0)
        for depth in (8, 16):
            channels = list(deep_samples(np.moveaxis(rgb, 2, 0), depth))
            top = (1 << depth) - 1
            plain = np.full(grey.shape, top)
            for name, extra, samples in (
                ("rgb", {}, channels),
                ("rgba", {"t338": 2}, [*channels, plain]),
                ("premultiplied", {"t338": 1}, [*channels, plain]),
            ):
                data = write_tiff(samples, depth, 2, order, planar, compression=compression, **extra)
                yield OddPicture(f"{name}{depth}_{how}.tif", data, rgb)
            inks = [top - channel for channel in channels] + [0 * plain]
            data = write_tiff(inks, depth, 5, order, planar, compression=compression)
            yield OddPicture(f"cmyk{depth}_{how}.tif", data, rgb, 1.0)
    picture = Image.fromarray(rgb)
    for reversed_grey, compression in product((0, 1), (1, 8)):
        deep = deep_samples(grey, 1)
        data = write_tiff(
            [1 - deep if reversed_grey else deep], 1, 1 - reversed_grey, compression=compression, fill_order=2
        )
        yield OddPicture(f"fill_order{reversed_grey}_{compression}.tif", data, as_rgb(deep * 255))
    for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_jpeg"):
        data = encode(picture, "TIFF", compression=name)
        yield OddPicture(f"{name}.tif", data, rgb, 8.0 if name == "tiff_jpeg" else 0.0)
    two = Image.fromarray((grey > 127).astype(np.uint8) * 255).convert("1")
    yield OddPicture("group4.tif", encode(two, "TIFF", compression="group4"), np.asarray(two.convert("RGB")))
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        "RGB",
        "LAB",
    )
    lab = ImageCms.applyTransform(picture, to_lab)
    assert lab is not None
    yield OddPicture("lab.tif", encode(lab, "TIFF"), rgb, 3.0)
