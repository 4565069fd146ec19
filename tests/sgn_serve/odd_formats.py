"""Make one picture in many forms of the formats that few cameras and editors write."""

import importlib.util
import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from tests.sgn_serve.odd_pictures import OddPicture, as_rgb, deep_samples, grey_of, half_transparent, shallow_samples
from tests.sgn_serve.picture_writers import (
    DDS_ALPHA,
    DDS_GREY,
    DDS_LETTERS,
    DDS_PALETTE,
    DDS_RGB,
    Component,
    bc1_colours,
    bc4_values,
    bc7_colours,
    blocks_of,
    box,
    enumerated,
    icon_bitmap,
    picture_of,
    turned,
    with_tga_extension,
    with_turn,
    write_codestream,
    write_dds,
    write_ico,
    write_jp2,
    write_tga,
)
from tests.sgn_serve.sample_pictures import encode

RGB = NDArray[np.uint8]
HEIF = importlib.util.find_spec("pillow_heif") is not None


def odd_formats(rgb: RGB) -> Iterator[OddPicture]:
    """Yield the picture in every form.

    Args:
        rgb: (H, W, 3), of sides that 4 divides.
    """
    yield from _portable_maps(rgb)
    yield from _targas(rgb)
    yield from _icons(rgb)
    yield from _qois(rgb)
    yield from _surfaces(rgb)
    if features.check("jpg_2000"):
        yield from _jpeg2000s(rgb)
    if features.check("avif"):
        yield from _media(rgb, "AVIF", "avif", {"quality": 100, "subsampling": "4:4:4"}, {"subsampling": "4:2:0"})
        yield from _avifs(rgb)
    if HEIF:
        yield from _media(rgb, "HEIF", "heic", {"quality": -1, "chroma": 444}, {"chroma": 420})
        yield from _heifs(rgb)


def _quantised(rgb: RGB, bits: int) -> NDArray[np.int64]:
    return rgb.astype(np.int64) >> (8 - bits)


def _five(rgb: RGB) -> tuple[NDArray[np.uint16], RGB]:
    """Return pixels of 15 bits, red highest, and the colours that they are."""
    red, green, blue = np.moveaxis(_quantised(rgb, 5), 2, 0)
    shown = np.rint(_quantised(rgb, 5) * 255 / 31).astype(np.uint8)
    return (red << 10 | green << 5 | blue).astype("<u2"), shown


def _indexed(rgb: RGB) -> tuple[RGB, RGB]:
    """Return indices (H, W), and a palette of 256 colours some of which are equal."""
    index = grey_of(rgb)
    ramp = np.arange(256)
    return index, np.stack([ramp // 16 * 16, 255 - ramp // 8 * 8, ramp // 32 * 32], axis=1).astype(np.uint8)


def _portable_maps(rgb: RGB) -> Iterator[OddPicture]:
    grey, (height, width) = grey_of(rgb), rgb.shape[:2]

    def header(kind: int, *numbers: int) -> bytes:
        return f"P{kind} # a comment\n{width} {height}\n".encode() + b"".join(b"%d\n" % number for number in numbers)

    def plain(values: NDArray[np.integer]) -> bytes:
        return b"\n".join(b" ".join(b"%d" % value for value in row.ravel()) for row in values)

    two = (grey < 128).astype(np.uint8)
    shown = as_rgb((1 - two) * 255)
    yield OddPicture("plain.pbm", header(1) + plain(two), shown)
    yield OddPicture("raw.pbm", header(4) + np.packbits(two, axis=1).tobytes(), shown)
    for most in (15, 100, 255, 1023, 65535):
        for values, kinds, suffix in ((grey, (2, 5), "pgm"), (rgb, (3, 6), "ppm")):
            stored = np.rint(values.astype(float) * most / 255).astype(np.int64)
            shown = np.rint(stored * 255 / most).astype(np.uint8)
            shown = as_rgb(shown) if values.ndim == 2 else shown
            raw = stored.astype(np.uint8 if most < 256 else ">u2").tobytes()
            yield OddPicture(f"plain{most}.{suffix}", header(kinds[0], most) + plain(stored), shown, 1.0)
            yield OddPicture(f"raw{most}.{suffix}", header(kinds[1], most) + raw, shown, 1.0)


def _targas(rgb: RGB) -> Iterator[OddPicture]:
    grey = grey_of(rgb)
    alpha, below = half_transparent(rgb)
    _, grey_below = half_transparent(as_rgb(grey))
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    bgra = np.dstack([bgr, alpha])
    fives, shown_fives = _five(rgb)
    index, palette = _indexed(rgb)
    blue_first = np.ascontiguousarray(palette[:, ::-1])
    origins = {"top": 0x20, "bottom": 0, "bottom_right": 0x10, "top_right": 0x30}
    for (name, origin), rle in product(origins.items(), (False, True)):
        how = f"{name}{'_rle' if rle else ''}.tga"
        yield OddPicture(f"rgb_{how}", write_tga(bgr, 2, origin, rle), rgb)
        yield OddPicture(f"rgba_{how}", write_tga(bgra, 2, origin, rle, 8), below)
        yield OddPicture(f"grey_{how}", write_tga(grey[..., None], 3, origin, rle), as_rgb(grey))
        grey_alpha = np.dstack([grey, alpha])
        yield OddPicture(f"la_{how}", write_tga(grey_alpha, 3, origin, rle, 8), grey_below)
        stored = fives.view(np.uint8).reshape(*grey.shape, 2)
        yield OddPicture(f"five_{how}", write_tga(stored, 2, origin, rle), shown_fives, 1.0)
        stored = (fives | 0x8000).view(np.uint8).reshape(*grey.shape, 2)
        yield OddPicture(f"five_unused_bit_{how}", write_tga(stored, 2, origin, rle), shown_fives, 1.0)
        colours = (0, 24, blue_first.tobytes())
        yield OddPicture(f"palette_{how}", write_tga(index[..., None], 1, origin, rle, palette=colours), palette[index])
    rows = index[..., None]
    opaque = np.dstack([blue_first[None], np.full((1, 256, 1), 255)]).astype(np.uint8)
    yield OddPicture("palette32.tga", write_tga(rows, 1, palette=(0, 32, opaque.tobytes())), palette[index])
    late = np.maximum(index, 40)[..., None]
    data = write_tga(late, 1, palette=(40, 24, blue_first[40:].tobytes()))
    yield OddPicture("palette_from_40.tga", data, palette[late[..., 0]])
    number, shown = _five(palette[None])
    data = write_tga(rows, 1, palette=(0, 16, (number | 0x8000).tobytes()))
    yield OddPicture("palette16.tga", data, shown[0][index], 1.0)
    for kind, expected in ((0, rgb), (1, rgb), (2, rgb), (3, below)):
        data = with_tga_extension(write_tga(bgra, 2, alpha_bits=8), kind)
        yield OddPicture(f"alpha_kind{kind}.tga", data, expected)
    two = Image.fromarray(grey > 127)
    yield OddPicture("1.tga", encode(two, "TGA"), np.asarray(two.convert("RGB")))


def _icons(rgb: RGB) -> Iterator[OddPicture]:
    height, width = size = rgb.shape[:2]
    alpha, below = half_transparent(rgb)
    mask, nothing = alpha == 0, np.zeros(size, bool)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    plain, layer = encode(Image.fromarray(rgb)), encode(Image.fromarray(np.dstack([rgb, alpha])))
    yield OddPicture("png.ico", write_ico([(size, 32, plain)]), rgb)
    yield OddPicture("png_alpha.ico", write_ico([(size, 32, layer)]), below)
    small = encode(Image.fromarray(255 - rgb).resize((16, 16)))
    dull = icon_bitmap(np.zeros((height, width), np.uint8), 8, nothing, bytes(1024))
    yield OddPicture("largest.ico", write_ico([((16, 16), 32, small), (size, 32, plain), (size, 8, dull)]), rgb)
    large = Image.fromarray(rgb).resize((10 * width, 10 * height), Image.Resampling.NEAREST)
    data = write_ico([((0, 0), 32, encode(large)), ((0, 0), 32, encode(large.resize((256, 256))))])
    yield OddPicture("larger_than_said.ico", data, np.asarray(large))

    def bgra(values: RGB) -> RGB:
        return np.dstack([bgr, values]).reshape(height, -1)

    icons = {
        "32_alpha": (32, icon_bitmap(bgra(alpha), 32, nothing), below),
        "32_alpha_not_mask": (32, icon_bitmap(bgra(alpha), 32, ~mask), below),
        "32_mask": (32, icon_bitmap(bgra(np.zeros_like(alpha)), 32, mask), below),
        "24": (24, icon_bitmap(bgr.reshape(height, -1), 24, nothing), rgb),
        "24_mask": (24, icon_bitmap(bgr.reshape(height, -1), 24, mask), below),
    }
    fives, shown = _five(rgb)
    icons["16"] = (16, icon_bitmap(fives.view(np.uint8).reshape(height, -1), 16, nothing), shown)
    grey = grey_of(rgb)
    for depth in (1, 4, 8):
        index = deep_samples(grey, depth)
        ramp = np.arange(1 << depth) * 255 // ((1 << depth) - 1)
        for name, colours in (("", [ramp, 255 - ramp, ramp // 2]), ("_grey", [ramp, ramp, ramp])):
            palette = np.stack(colours, axis=1).astype(np.uint8)
            stored = np.dstack([palette[None, :, ::-1], np.zeros((1, 1 << depth, 1))]).astype(np.uint8).tobytes()
            bits = (index[..., None] >> np.arange(depth - 1, -1, -1)) & 1
            rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
            for kind, hidden in (("", nothing), ("_mask", mask)):
                expected = np.where(hidden[..., None], 255, palette[index]).astype(np.uint8)
                icons[f"{depth}{name}{kind}"] = (depth, icon_bitmap(rows, depth, hidden, stored), expected)
    for name, (pixel_bits, content, expected) in icons.items():
        said = 0 if name == "32_alpha" else pixel_bits  # some writers leave it out
        yield OddPicture(f"{name}.ico", write_ico([(size, said, content)]), expected, 1.0 if pixel_bits == 16 else 0.0)
    yield OddPicture("pillow.ico", encode(Image.fromarray(rgb), "ICO", sizes=[(width, height)]), rgb)


def _qois(rgb: RGB) -> Iterator[OddPicture]:
    alpha, below = half_transparent(rgb)
    yield OddPicture("rgb.qoi", encode(Image.fromarray(rgb), "QOI"), rgb)
    yield OddPicture("rgba.qoi", encode(Image.fromarray(np.dstack([rgb, alpha])), "QOI"), below)
    # Every operation by hand: a run of the first black, its index, RGB, differences, luma, RGBA, a run of 62.
    stored = bytes([0xC1, 0x35, 0xFE, 10, 20, 30, 0x7B, 0xA5, 0xC3, 0xFF, 90, 80, 70, 255, 0xFD])
    red, green, blue = 11, 20, 31
    pixels = [(0, 0, 0)] * 3 + [(10, 20, 30), (red, green, blue), (red + 9, green + 5, blue), (90, 80, 70)]
    pixels += [(90, 80, 70)] * 62
    for channels in (3, 4):
        header = b"qoif" + struct.pack(">LLBB", len(pixels), 1, channels, 0)
        data = header + stored + bytes(7) + b"\1"
        yield OddPicture(f"operations{channels}.qoi", data, np.array([pixels], np.uint8))


def _surfaces(rgb: RGB) -> Iterator[OddPicture]:
    height, width = size = rgb.shape[:2]
    alpha, below = half_transparent(rgb)
    grey = grey_of(rgb)
    rgba = np.dstack([rgb, alpha])
    bgra = np.dstack([rgb[..., ::-1], alpha])
    masks = (0xFF0000, 0xFF00, 0xFF)
    yield OddPicture("bgr.dds", write_dds(size, rgb[..., ::-1].tobytes(), DDS_RGB, masks=(24, *masks)), rgb)
    yield OddPicture("rgbx.dds", write_dds(size, rgba.tobytes(), DDS_RGB, masks=(32, *masks[::-1])), rgb)
    channels = (32, *masks, 0xFF000000)
    yield OddPicture("bgra.dds", write_dds(size, bgra.tobytes(), DDS_RGB | DDS_ALPHA, masks=channels), below)
    data = write_dds(size, bgra.tobytes(), DDS_RGB | DDS_ALPHA, masks=(32, *masks, 0))
    yield OddPicture("no_alpha_mask.dds", data, rgb)
    fives, shown = _five(rgb)
    five_masks = (16, 0x7C00, 0x3E0, 0x1F)
    yield OddPicture("555.dds", write_dds(size, fives.tobytes(), DDS_RGB, masks=five_masks), shown, 1.0)
    data = write_dds(size, (fives | 0x8000).tobytes(), DDS_RGB | DDS_ALPHA, masks=(*five_masks, 0x8000))
    yield OddPicture("1555.dds", data, shown, 1.0)
    red, green, blue = np.moveaxis(rgb.astype(np.uint16), 2, 0)
    sixes = red >> 3 << 11 | green >> 2 << 5 | blue >> 3
    shown = np.dstack([shown[..., 0], np.rint((green >> 2) * 255 / 63), shown[..., 2]]).astype(np.uint8)
    data = write_dds(size, sixes.astype("<u2").tobytes(), DDS_RGB, masks=(16, 0xF800, 0x7E0, 0x1F))
    yield OddPicture("565.dds", data, shown, 1.0)
    yield OddPicture("grey.dds", write_dds(size, grey.tobytes(), DDS_GREY, masks=(8, 255)), as_rgb(grey))
    _, grey_below = half_transparent(as_rgb(grey))
    data = write_dds(size, np.dstack([grey, alpha]).tobytes(), DDS_GREY | DDS_ALPHA, masks=(16, 255, 0, 0, 0xFF00))
    yield OddPicture("grey_alpha.dds", data, grey_below)
    index, palette = _indexed(rgb)
    colours = np.dstack([palette[None], np.full((1, 256, 1), 255)]).astype(np.uint8).tobytes()
    data = write_dds(size, colours + index.tobytes(), DDS_PALETTE, masks=(8,))
    yield OddPicture("palette.dds", data, palette[index])
    for name, meaning, expected in (("straight", 1, below), ("opaque", 3, rgb)):
        data = write_dds(size, rgba.tobytes(), DDS_LETTERS, b"DX10", extension=(28, 3, meaning))
        yield OddPicture(f"dx10_{name}.dds", data, expected)

    def compressed(letters: bytes, kind: int, blocks: list[tuple[bytes, Any]]) -> tuple[bytes, bytes, RGB]:
        data = b"".join(block for block, _ in blocks)
        seen = picture_of(np.stack([shown for _, shown in blocks]), height, width).astype(np.uint8)
        old = write_dds(size, data, DDS_LETTERS, letters)
        return old, write_dds(size, data, DDS_LETTERS, b"DX10", extension=(kind, 3, 0)), seen

    whole, holes = blocks_of(rgb), blocks_of(alpha[..., None])[..., 0]
    old, new, shown = compressed(b"DXT1", 71, [bc1_colours(block) for block in whole])
    yield OddPicture("dxt1.dds", old, shown, 1.5)
    yield OddPicture("bc1.dds", new, shown, 1.5)
    some = whole[:, :, 0] % 3 == 0
    old, _, shown = compressed(b"DXT1", 71, [bc1_colours(*pair) for pair in zip(whole, some, strict=True)])
    yield OddPicture("dxt1_see_through.dds", old, shown, 1.5)
    # Alpha of four bits, and of BC4's kind, before the colours.
    for letters, name, kind in ((b"DXT3", "bc2", 74), (b"DXT5", "bc3", 77)):
        blocks = []
        for block, hole in zip(whole, holes, strict=True):
            stored, colours_shown = bc1_colours(block)
            if letters == b"DXT3":
                nibbles = hole >> 4
                first = bytes(nibbles[at] | nibbles[at + 1] << 4 for at in range(0, 16, 2))
            else:
                first = bc4_values(hole)[0]
            blocks.append((first + stored, np.where(hole[:, None] == 0, 255, colours_shown)))
        old, new, shown = compressed(letters, kind, blocks)
        yield OddPicture(f"{letters.decode().lower()}.dds", old, shown, 1.5)
        yield OddPicture(f"{name}.dds", new, shown, 1.5)
    old, new, shown = compressed(b"BC4U", 80, [bc4_values(block[:, 0]) for block in whole])
    yield OddPicture("bc4u.dds", old, as_rgb(shown[..., 0]), 1.5)
    yield OddPicture("bc4.dds", new, as_rgb(shown[..., 0]), 1.5)
    blocks = []
    for block in whole:
        (reds, red_shown), (greens, green_shown) = bc4_values(block[:, 0]), bc4_values(block[:, 1])
        blocks.append((reds + greens, np.stack([red_shown, green_shown, 0 * red_shown], axis=1)))
    old, new, shown = compressed(b"ATI2", 83, blocks)
    yield OddPicture("ati2.dds", old, shown, 1.5)
    yield OddPicture("bc5.dds", new, shown, 1.5)
    opaque = blocks_of(np.dstack([rgb, np.full(size, 255)]).astype(np.int64))
    _, new, shown = compressed(b"", 98, [bc7_colours(block) for block in opaque])
    yield OddPicture("bc7.dds", new, _over_white(shown), 1.0)
    yield OddPicture("pillow_dxt5.dds", encode(Image.fromarray(rgba), "DDS", pixel_format="DXT5"), below, 12.0)


def _over_white(rgba: RGB) -> RGB:
    alpha = rgba[..., 3:].astype(float) / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _jpeg2000s(rgb: RGB) -> Iterator[OddPicture]:
    grey, size = grey_of(rgb), rgb.shape[:2]
    alpha, below = half_transparent(rgb)
    _, grey_below = half_transparent(as_rgb(grey))
    picture, layer = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, alpha]))
    pictures = {
        "rgb": (picture, rgb),
        "grey": (Image.fromarray(grey), as_rgb(grey)),
        "rgba": (layer, below),
        "la": (layer.convert("LA"), grey_below),
        "grey16": (Image.fromarray(grey.astype(np.uint16) * 257), as_rgb(grey)),
    }
    for name, (stored, expected) in pictures.items():
        yield OddPicture(f"{name}.jp2", encode(stored, "JPEG2000"), expected)
        yield OddPicture(f"{name}.j2k", encode(stored, "JPEG2000", no_jp2=True), expected)
    yield OddPicture("cmyk.jp2", encode(picture.convert("CMYK"), "JPEG2000"), rgb, 1.0)
    yield OddPicture("tiles.jp2", encode(picture, "JPEG2000", tile_size=(16, 16), progression="RPCL"), rgb)
    yield OddPicture("transformed.jp2", encode(picture, "JPEG2000", mct=1), rgb)
    lossy = encode(picture, "JPEG2000", irreversible=True, mct=1, quality_mode="dB", quality_layers=[30, 45])
    yield OddPicture("lossy.jp2", lossy, rgb, 3.0)

    for depth in (1, 2, 4, 7, 12, 16):
        deep = deep_samples(grey, depth)
        shown = as_rgb(shallow_samples(deep, depth))
        stream = write_codestream([Component(deep, depth)], size)
        yield OddPicture(f"grey{depth}_alone.j2k", stream, shown, 1.0)
        yield OddPicture(f"grey{depth}_alone.jp2", write_jp2(stream, enumerated(17)), shown, 1.0)
        deep = deep_samples(rgb, depth)
        stream = write_codestream([Component(deep[..., band], depth) for band in range(3)], size)
        yield OddPicture(f"rgb{depth}.jp2", write_jp2(stream, enumerated(16)), shallow_samples(deep, depth), 1.0)
    depths = (8, 4, 6)
    bands = [deep_samples(rgb[..., band], depth) for band, depth in enumerate(depths)]
    shown = np.dstack([shallow_samples(band, depth) for band, depth in zip(bands, depths, strict=True)])
    stream = write_codestream([Component(*pair) for pair in zip(bands, depths, strict=True)], size)
    yield OddPicture("mixed_depths.jp2", write_jp2(stream, enumerated(16)), shown)

    luma, blue, red = picture.convert("YCbCr").split()
    for name, step in (("444", (1, 1)), ("422", (1, 2)), ("420", (2, 2))):
        smaller = (size[1] // step[1], size[0] // step[0])
        chroma = [np.asarray(band.resize(smaller, Image.Resampling.BOX)) for band in (blue, red)]
        components = [Component(np.asarray(luma)), *(Component(band, 8, step) for band in chroma)]
        stream = write_codestream(components, size)
        yield OddPicture(f"sycc{name}.jp2", write_jp2(stream, enumerated(18)), rgb, 8.0)
        if name != "444":
            yield OddPicture(f"sycc{name}.j2k", stream, rgb, 8.0)
    halves = [np.asarray(Image.fromarray(rgb[..., band]).resize((size[1] // 2, size[0] // 2))) for band in range(3)]
    wide = [np.asarray(Image.fromarray(half).resize(size[::-1], Image.Resampling.NEAREST)) for half in halves]
    stream = write_codestream([Component(wide[0]), *(Component(half, 8, (2, 2)) for half in halves[1:])], size)
    yield OddPicture("rgb420.jp2", write_jp2(stream, enumerated(16)), np.dstack(wide))

    for depth in (2, 4, 8):
        index = deep_samples(grey, depth)
        colours = _indexed(rgb)[1][:: 256 >> depth]
        direct = b"".join(bytes([0, 0, 1, column]) for column in range(4))
        table = struct.pack(">HB", 1 << depth, 3) + b"\7\7\7" + colours.tobytes()
        more = box(b"pclr", table) + box(b"cmap", direct[:12])
        stream = write_codestream([Component(index, depth)], size)
        yield OddPicture(f"palette{depth}.jp2", write_jp2(stream, enumerated(16), more), colours[index])
        opacity = np.where(np.arange(1 << depth) % 3, 255, 0)
        table = (
            struct.pack(">HB", 1 << depth, 4)
            + b"\7\7\7\7"
            + np.column_stack([colours, opacity]).astype(np.uint8).tobytes()
        )
        channels = struct.pack(">H12H", 4, 0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 1, 0)
        more = box(b"pclr", table) + box(b"cmap", direct) + box(b"cdef", channels)
        expected = np.where(opacity[index][..., None], colours[index], 255).astype(np.uint8)
        yield OddPicture(f"palette{depth}_alpha.jp2", write_jp2(stream, enumerated(16), more), expected)
    profile = b"\2\0\0" + bytes(16) + b"RGB " + bytes(108)
    stream = write_codestream([Component(rgb[..., band]) for band in range(3)], size)
    yield OddPicture("profile.jp2", write_jp2(stream, profile), rgb)


def _media(rgb: RGB, name: str, suffix: str, best: dict[str, Any], halved: dict[str, Any]) -> Iterator[OddPicture]:
    """Yield the forms that AVIF and HEIC have in common."""
    grey = grey_of(rgb)
    alpha, below = half_transparent(rgb)
    picture, layer = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, alpha]))
    whole = encode(picture, name, **best)
    yield OddPicture(f"best.{suffix}", whole, rgb, 1.0)
    yield OddPicture(f"halved.{suffix}", encode(picture, name, **best | halved), rgb, 8.0)
    yield OddPicture(f"grey.{suffix}", encode(Image.fromarray(grey), name, **best), as_rgb(grey), 1.0)
    yield OddPicture(f"alpha.{suffix}", encode(layer, name, **best), below, 1.0)
    frames = [Image.new("RGB", picture.size)]
    animated = encode(picture, name, save_all=True, append_images=frames, **best)
    yield OddPicture(f"animated.{suffix}", animated, rgb, 2.0)
    for angle, mirror in product((None, 0, 1, 2, 3), (None, 0, 1)):
        if (angle, mirror) != (None, None):
            data = with_turn(whole, angle, mirror)
            yield OddPicture(f"turn{angle}_mirror{mirror}.{suffix}", data, turned(rgb, angle, mirror), 1.0)
    # The first brand is that of both formats.
    yield OddPicture(f"mif1.{suffix}", whole[:8] + b"mif1" + whole[12:], rgb, 1.0)


def _avifs(rgb: RGB) -> Iterator[OddPicture]:
    alpha, below = half_transparent(rgb)
    picture, layer = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, alpha]))
    best: dict[str, Any] = {"quality": 100, "subsampling": "4:4:4"}
    yield OddPicture("premultiplied.avif", encode(layer, "AVIF", alpha_premultiplied=True, **best), below, 2.0)
    yield OddPicture("limited.avif", encode(picture, "AVIF", range="limited", **best), rgb, 2.0)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture, "AVIF", exif=exif, **best)
    upright = data.replace(b"irot\3", b"irot\0")
    assert upright != data
    yield OddPicture("exif_without_turn.avif", upright, rgb, 1.0)  # EXIF does not say how an AVIF is turned


def _heifs(rgb: RGB) -> Iterator[OddPicture]:
    grey = grey_of(rgb)
    picture = Image.fromarray(rgb)
    exact = encode(picture, "HEIF", quality=-1, chroma=444, matrix_coefficients=0)
    yield OddPicture("exact.heic", exact, rgb)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    yield OddPicture("grey10.heic", encode(deep, "HEIF", quality=-1), as_rgb(grey), 1.0)
    tiles = encode(picture.resize((256, 256), Image.Resampling.NEAREST), "HEIF", quality=-1, chroma=444, tile_size=64)
    large = np.asarray(picture.resize((256, 256), Image.Resampling.NEAREST))
    yield OddPicture("grid.heic", tiles, large, 1.0)


def refused_formats() -> dict[str, bytes]:
    """Return files whose pixels would be read wrongly, by name."""
    plane, size = np.zeros((8, 8), np.uint8), (8, 8)
    three = [Component(plane)] * 3
    layer, pixels = np.zeros((8, 8, 4), np.uint8), bytes(8 * 8 * 4)
    plain = write_codestream([*three, Component(plane)], size)
    premultiplied = box(b"cdef", struct.pack(">H12H", 4, 0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 2, 0))
    files = {
        "float.pfm": encode(Image.new("F", (8, 8)), "PPM"),
        "one_alpha_bit.tga": write_tga(layer[..., :2], 2, alpha_bits=1),
        "one_alpha_bit_palette.tga": write_tga(plane[..., None], 1, alpha_bits=1, palette=(0, 16, bytes(512))),
        "grey16.tga": write_tga(layer[..., :2], 3),
        "premultiplied.tga": with_tga_extension(write_tga(layer, 2, alpha_bits=8), 4),
        "cut_mask.ico": write_ico([(size, 24, icon_bitmap(layer[0].reshape(1, -1), 24, np.zeros((8, 8), bool)))]),
        "empty.ico": write_ico([]),
        "cube.dds": write_dds(size, pixels, DDS_RGB, masks=(32, 0xFF, 0xFF00, 0xFF0000))[:112]
        + struct.pack("<L", 0xFE00)
        + bytes(12)
        + pixels,
        "volume.dds": write_dds(size, pixels, DDS_LETTERS, b"DX10", extension=(28, 4, 0)),
        "premultiplied.dds": write_dds(size, pixels, DDS_LETTERS, b"DX10", extension=(28, 3, 2)),
        "alpha_alone.dds": write_dds(size, pixels, 2, masks=(8, 0, 0, 0, 255)),
        "dxt2.dds": write_dds(size, pixels, DDS_LETTERS, b"DXT2"),
        "bc5s.dds": write_dds(size, pixels, DDS_LETTERS, b"BC5S"),
        "bc6h.dds": write_dds(size, pixels, DDS_LETTERS, b"DX10", extension=(95, 3, 0)),
    }
    if features.check("jpg_2000"):
        stream = write_codestream(three, size)
        files |= {
            "signed.j2k": write_codestream(three, size, signed=True),
            "five.j2k": write_codestream([*three, *three[:2]], size),
            "sycc12.jp2": write_jp2(write_codestream([Component(plane, 12)] * 3, size), enumerated(18)),
            "lab.jp2": write_jp2(stream, enumerated(14)),
            "cmyk_profile.jp2": write_jp2(plain, b"\2\0\0" + bytes(16) + b"CMYK" + bytes(108)),
            "premultiplied.jp2": write_jp2(plain, enumerated(16), premultiplied),
            "grey_of_three.jp2": write_jp2(stream, enumerated(17)),
            "white_is_zero.jp2": write_jp2(write_codestream([Component(plane & 1, 1)], size), enumerated(0)),
            "cut.jp2": write_jp2(stream, enumerated(16))[:-40],
        }
    if features.check("avif"):
        whole = encode(Image.fromarray(layer[..., :3]), "AVIF")
        at = whole.index(b"colr") - 4
        files["cropped.avif"] = whole[: at + 4] + b"clap" + whole[at + 8 :]
        files["cut.avif"] = whole[:-20]
    if HEIF:
        files["cut.heic"] = encode(Image.fromarray(layer[..., :3]), "HEIF")[:-20]
    return files
