import contextlib
import random
import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from release.hostile.seeds import tiff
from release.hostile.structures import png_chunk
from sgn_serve.pictures import decoding, unfinished_jpeg
from sgn_serve.pictures.decoding import decode
from sgn_serve.pictures.errors import (
    DamagedImage,
    NotAnImage,
    PictureRefused,
    TooManyPixels,
    UnsupportedPixels,
)
from tests.sgn_serve.odd_pictures import write_png
from tests.sgn_serve.picture_writers import write_ico
from tests.sgn_serve.sample_pictures import TIFF_DATA, encode, noise, png

SIZE = (8, 8)
LIMIT = 10_000


def as_bytes(pixels):
    """Convert (3, H, W) in [0, 1] back to exact values from 0 to 255, (H, W, 3)."""
    values = pixels.transpose(1, 2, 0) * np.float32(255)
    assert np.abs(values - values.round()).max() < 1e-4
    return values.round().astype(np.uint8)


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_a_picture_of_the_models_size_keeps_every_value(file_format, options):
    pixels = noise()
    decoded = decode(encode(Image.fromarray(pixels), file_format, **options), SIZE, LIMIT)
    assert decoded.shape == (3, 8, 8)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_jpeg_and_gif_are_read_as_pillow_reads_them():
    jpeg = encode(Image.fromarray(noise()), "JPEG")
    assert decode(jpeg, SIZE, LIMIT).std() > 0.1
    flat = encode(Image.new("P", (8, 8), 3), "GIF")
    assert decode(flat, SIZE, LIMIT).shape == (3, 8, 8)


def test_another_size_is_stretched_with_antialiasing():
    checkerboard = np.indices((64, 32)).sum(0) % 2 * 255
    grey = decode(encode(Image.fromarray(checkerboard.astype(np.uint8))), SIZE, LIMIT)
    assert np.abs(grey - 0.5).max() < 0.05, "shrinking without antialiasing picks blacks and whites"

    wide = Image.new("RGB", (40, 10), "black")
    wide.paste("white", (20, 0, 40, 10))
    halves = decode(encode(wide), SIZE, LIMIT)
    assert halves[:, :, :3].max() == 0
    assert halves[:, :, 5:].min() == 1, "the whole width is kept, at another aspect"


def test_growing_a_picture_stays_in_range():
    grown = decode(encode(Image.fromarray(noise(3, 2))), SIZE, LIMIT)
    assert grown.shape == (3, 8, 8)
    assert 0 <= grown.min() <= grown.max() <= 1


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_sixteen_bits_keep_their_greys(colour):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    values = np.array([0, 257, 30 * 257, 0x8000, 65535 - 257, 65535], ">u2")
    row = np.repeat(values[:, None], channels, axis=1)
    if colour in (4, 6):
        row[:, -1] = 65535
    decoded = as_bytes(decode(png(6, 1, 16, colour, b"\0" + row.tobytes()), (1, 6), LIMIT))
    assert decoded[0, :, 0].tolist() == [0, 1, 30, 128, 254, 255]
    assert (decoded == decoded[:, :, :1]).all()


def test_transparency_lies_on_white():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :2] = (10, 20, 30, 255)
    rgba[:, 2:5] = (10, 20, 30, 0)
    rgba[:, 5:] = (0, 0, 0, 128)
    decoded = as_bytes(decode(encode(Image.fromarray(rgba)), SIZE, LIMIT))
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert decoded[0, 3].tolist() == [255, 255, 255]
    assert decoded[0, 6].tolist() == [127, 127, 127]


def test_transparency_of_grey_and_of_palettes():
    grey = Image.new("LA", (8, 8), (7, 255))
    grey.putpixel((0, 0), (7, 0))
    decoded = as_bytes(decode(encode(grey), SIZE, LIMIT))
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[4, 4].tolist() == [7, 7, 7]

    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    decoded = as_bytes(decode(encode(palette, transparency=1), SIZE, LIMIT))
    assert decoded[0, 0].tolist() == [255, 0, 0]
    assert decoded[4, 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (8, 2), (16, 0), (16, 2)])
def test_a_transparent_colour_lies_on_white(depth, colour):
    channels = {0: 1, 2: 3}[colour]
    kind, unit = {8: (">u1", 1), 16: (">u2", 257)}[depth]
    values = np.array([0, 100 * unit, 3 * unit], kind)
    row = np.repeat(values[:, None], channels, axis=1)
    transparent = np.full(channels, 100 * unit, ">u2").tobytes()
    decoded = as_bytes(decode(png(3, 1, depth, colour, b"\0" + row.tobytes(), transparent), (1, 3), LIMIT))
    assert decoded[0, :, 0].tolist() == [0, 255, 3]


@pytest.mark.parametrize(("file_format", "options"), [("TIFF", {}), ("JPEG", {"quality": 100})])
def test_cmyk(file_format, options):
    for ink, expected in (
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ):
        decoded = decode(encode(Image.new("CMYK", (8, 8), ink), file_format, **options), SIZE, LIMIT)
        assert np.abs(decoded[:, 4, 4] * 255 - expected).max() < 3, ink


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, file_format):
    upright = Image.fromarray(noise(4, 6))
    stored_by = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # a reader turns it back clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if stored_by is None else upright.transpose(stored_by)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(stored, file_format, exif=exif), (4, 6), LIMIT)
    assert np.array_equal(as_bytes(decoded), noise(4, 6))


def test_an_animations_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert as_bytes(decode(file, SIZE, LIMIT))[0, 0].tolist() == [255, 0, 0]


def test_pixels_are_counted_before_they_are_decoded():
    bomb = png(100_000, 100_000, 8, 2, b"")  # nothing to decode: asked to, it would be damaged
    with pytest.raises(TooManyPixels, match="PNG picture has 100000 x 100000 = 10000000000 pixels, more than 10000"):
        decode(bomb, SIZE, LIMIT)
    assert decode(encode(Image.fromarray(noise(100, 100))), SIZE, LIMIT).shape == (3, 8, 8), (
        "the limit itself is allowed"
    )
    with pytest.raises(TooManyPixels):
        decode(encode(Image.fromarray(noise(100, 101))), SIZE, LIMIT)


def test_an_mpo_is_its_first_picture():
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    file = encode(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert decoding.open_picture(file, LIMIT).format == "MPO"
    assert np.abs(decode(file, SIZE, LIMIT)[:, 4, 4] - (1, 0, 0)).max() < 0.02


def test_a_jpeg_without_its_colours_is_damaged():
    file = encode(Image.new("RGB", (8, 8)), "JPEG", progressive=True)
    frame = file.index(b"\xff\xc2\0\x11")
    with pytest.raises(DamagedImage):
        decode(file[: frame + 2] + b"\0\x08" + file[frame + 4 : frame + 10] + file[frame + 19 :], SIZE, LIMIT)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("photometric", [0, 1, None])
def test_sixteen_bits_are_white_where_they_say(order, compression, photometric):
    values = np.array([0, 257, 30 * 257, 0x8000, 65535], f"{order}u2")
    data = values.tobytes() if compression == 1 else zlib.compress(values.tobytes())
    tags = {256: 5, 257: 1, 258: 16, 259: compression, 273: TIFF_DATA, 277: 1, 278: 1, 279: len(data)}
    file = tiff(data, tags if photometric is None else tags | {262: photometric}, order)
    greys = as_bytes(decode(file, (1, 5), LIMIT))[0, :, 0].tolist()
    assert greys == ([0, 1, 30, 128, 255] if photometric == 1 else [255, 254, 225, 127, 0])


@pytest.mark.parametrize("photometric", [0, 1, None])
def test_eight_bits_are_white_where_they_say(photometric):
    tags = {256: 2, 257: 1, 258: 8, 259: 1, 273: TIFF_DATA, 277: 1, 278: 1, 279: 2}
    file = tiff(b"\0\x40", tags if photometric is None else tags | {262: photometric})
    greys = as_bytes(decode(file, (1, 2), LIMIT))[0, :, 0].tolist()
    assert greys == ([0, 64] if photometric == 1 else [255, 191])


def test_twelve_bits_keep_their_greys():
    values = np.array([[0, 2048, 4095]], np.uint16)
    picture = Image.fromarray(values)
    file = encode(picture, "TIFF", tiffinfo={258: 16})
    assert as_bytes(decode(file, (1, 3), LIMIT))[0, :, 0].tolist() == [0, 8, 16], "of 16 bits: dark"
    opened = decoding.open_picture(file, LIMIT)
    assert isinstance(opened, TiffImageFile)
    opened.tag_v2[258] = (12,)
    assert as_bytes(decoding.to_array(opened, (1, 3)))[0, :, 0].tolist() == [0, 128, 255]


def test_pictures_in_strips_are_converted_as_in_one_piece(monkeypatch):
    rgba = np.random.default_rng(0).integers(0, 256, (31, 17, 4), dtype=np.uint8)
    for mode in ("RGBA", "LA", "CMYK", "P", "I;16"):
        picture = (
            Image.fromarray(rgba).convert(mode)
            if mode != "I;16"
            else Image.fromarray(rgba[..., 0].astype(np.uint16) * 257)
        )
        file = encode(picture, "TIFF" if mode == "CMYK" else "PNG")
        whole = decode(file, (31, 17), LIMIT)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "_STRIP_PIXELS", 50)
            assert np.array_equal(decode(file, (31, 17), LIMIT), whole), mode


def test_transparency_lies_on_the_background_that_is_configured():
    file = encode(Image.new("RGBA", (8, 8), (255, 255, 255, 0)))
    assert as_bytes(decode(file, SIZE, LIMIT, background=(0, 128, 255)))[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%PDF-1.4", b"\0" * 1000])
def test_other_files_are_not_images(data):
    with pytest.raises(NotAnImage, match="PNG, JPEG"):
        decode(data, SIZE, LIMIT)


def test_a_format_that_is_not_listed_is_not_tried():
    with pytest.raises(NotAnImage):
        decode(encode(Image.fromarray(noise()), "PCX"), SIZE, LIMIT)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_white_are_refused(mode):
    with pytest.raises(UnsupportedPixels, match="8 or 16 bits"):
        decode(encode(Image.new(mode, (8, 8)), "TIFF"), SIZE, LIMIT)


def test_a_layout_that_pillow_knows_in_headers_only_is_no_damage():
    """White is zero, and the bits of each byte are reversed."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 0, 266: 2, 273: TIFF_DATA, 277: 1, 278: 8, 279: 64}
    with pytest.raises(UnsupportedPixels, match="this layout of a TIFF picture's pixels is not read"):
        decode(tiff(bytes(range(64)), tags), SIZE, LIMIT)


@pytest.mark.parametrize("file_format", decoding.FORMATS)
def test_a_truncated_picture_is_refused(file_format):
    whole = encode(Image.fromarray(noise(64, 64)), file_format)
    with pytest.raises((DamagedImage, NotAnImage)):
        decode(whole[: len(whole) // 2], SIZE, LIMIT)


def cut_pictures() -> list[Any]:
    """Return a small picture of every format, with the ways of some to divide it."""
    rgb, clear = Image.fromarray(noise(14, 11)), Image.fromarray(noise(14, 11)).convert("RGBA")
    ways: dict[str, list[dict[str, Any]]] = {
        "JPEG2000": [{"tile_size": (8, 8)}, {"tile_size": (8, 8), "no_jp2": True}, {"quality_layers": [8, 2]}],
        "TIFF": [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}],
        "PNG": [{"compress_level": 0}],
        "JPEG": [{"progressive": True, "quality": 95}],
        "WEBP": [{"lossless": True}],
        "TGA": [{"compression": "tga_rle"}],
        "DDS": [{"pixel_format": "DXT1"}],
    }
    pictures: list[tuple[Any, str, dict[str, Any]]] = [(rgb, name, {}) for name in decoding.FORMATS]
    pictures += [(rgb, name, way) for name, more in ways.items() for way in more if name in decoding.FORMATS]
    pictures += [(clear, name, {}) for name in ("PNG", "JPEG2000", "WEBP", "TIFF", "AVIF", "TGA", "QOI")]
    return [
        pytest.param(picture, name, way, id=f"{name} {picture.mode} {way}")
        for picture, name, way in pictures
        if name in decoding.FORMATS
    ]


@pytest.mark.parametrize(("picture", "file_format", "way"), cut_pictures())
def test_a_picture_that_is_cut_anywhere_is_refused_or_whole(picture, file_format, way):
    """Bytes behind the pixels may be lacking, as in every viewer. Pixels may not."""
    whole = encode(picture, file_format, **way)
    wanted = decode(whole, SIZE, LIMIT)
    for length in range(len(whole)):
        try:
            decoded = decode(whole[:length], SIZE, LIMIT)
        except PictureRefused:
            continue
        assert np.array_equal(decoded, wanted), f"the first {length} of {len(whole)} bytes"


def with_divided_tile(whole: bytes, place: int, parts: int) -> tuple[bytes, int]:
    """Divide a JPEG 2000 codestream's only tile into two parts, and return where the second one starts.

    Args:
        whole: The codestream, whose tile has one part.
        place: The bytes of the tile's content in the first part.
        parts: The number of parts that the headers of both tell: 2, or 0, which leaves it open.
    """
    at, end = whole.index(b"\xff\x90\0\x0a"), len(whole) - 2
    content = whole[at + 14 : end]
    first, second = (
        struct.pack(">HHHLBB", 0xFF90, 10, 0, 14 + len(part), number, parts) + b"\xff\x93" + part
        for number, part in enumerate((content[:place], content[place:]))
    )
    return whole[:at] + first + second + whole[end:], at + len(first)


@pytest.mark.skipif("JPEG2000" not in decoding.FORMATS, reason="Pillow has no OpenJPEG here")
@pytest.mark.parametrize("parts", [0, 2])
def test_a_jpeg_2000_without_a_part_of_its_tile_is_refused_whether_the_parts_are_counted_or_not(parts):
    whole = encode(Image.fromarray(noise(14, 11)), "JPEG2000", no_jp2=True)
    wanted = decode(whole, SIZE, LIMIT)
    for place in range(1, 200):  # OpenJPEG takes the first part for the whole at some of these
        divided, second = with_divided_tile(whole, place, parts)
        assert np.array_equal(decode(divided, SIZE, LIMIT), wanted)
        with pytest.raises(DamagedImage):
            decode(divided[:second], SIZE, LIMIT)


@pytest.mark.parametrize("file_format", decoding.FORMATS)
def test_damaged_files_raise_nothing_but_image_errors(file_format):
    rng = random.Random(0)
    whole = encode(Image.fromarray(noise(24, 24)), file_format)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(min(len(damaged), 200))] = rng.randrange(256)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow says on the side what it finds odd
                decoded = decode(bytes(damaged), SIZE, LIMIT)
        except PictureRefused:
            refused += 1
        else:
            assert decoded.shape == (3, 8, 8)
    assert refused > 20


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "P", "I;16"])
def test_a_large_picture_resized_in_strips_is_what_pillow_makes_of_it_whole(mode):
    if mode == "I;16":
        picture = Image.fromarray((noise(1300, 900)[..., 0].astype(np.uint16) << 8) + 7)
        grey = Image.fromarray(((np.asarray(picture).astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))
        whole = grey.convert("RGB")
    else:
        picture = Image.fromarray(noise(1300, 900)).convert("RGBA" if mode == "LA" else mode)
        if mode in ("RGBA", "LA"):
            picture.putalpha(Image.fromarray(noise(1300, 900, seed=1)[..., 0]))
            picture = picture.convert(mode)
            whole = Image.new("RGB", picture.size, decoding.WHITE)
            whole.paste(picture.convert("RGBA"), mask=picture.getchannel("A"))
        else:
            whole = picture.convert("RGB")
    assert picture.mode == mode
    expected = np.asarray(whole.resize((24, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    found = decode(encode(picture, "TIFF" if mode == "CMYK" else "PNG"), (16, 24), 2_000_000)
    np.testing.assert_array_equal(np.rint(found * 255), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_decoded_at_half_its_size_gives_the_same_picture(mode, progressive):
    scene = Image.fromarray(noise(20, 30)).resize((2601, 1701), Image.Resampling.BICUBIC).convert(mode)
    data = encode(scene, "JPEG", quality=95, progressive=progressive)
    whole = Image.open(BytesIO(data)).convert("RGB").resize((24, 16), Image.Resampling.BILINEAR)
    found = decode(data, (16, 24), 25_000_000)
    np.testing.assert_allclose(found * 255, np.asarray(whole).transpose(2, 0, 1), atol=2.01)
    picture = decoding.open_picture(data, 25_000_000)
    decoding.to_array(picture, (16, 24))
    assert picture.size == (1301, 851)
    picture = decoding.open_picture(data, 25_000_000)
    decoding.to_array(picture, (160, 240))
    assert picture.size == (2601, 1701), "shrunk too little to be halved first"


def with_chunks(picture: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with more chunks before and behind its pixels."""
    return picture[:33] + b"".join(chunks) + picture[33:-12] + b"".join(chunks) + picture[-12:]


def test_large_texts_and_profiles_of_a_png_are_passed_over():
    """Pillow refuses a text of more than a megabyte, and all texts together of more than 64."""
    pixels = noise()
    plain = encode(Image.fromarray(pixels))
    packed = zlib.compress(bytes(4_000_000))
    texts = [
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        *[png_chunk(b"zTXt", b"key%d\0\0" % index + packed) for index in range(70)],
        png_chunk(b"tEXt", b"transparency\0" + bytes(2_000_000)),
        png_chunk(b"tEXt", b"gamma\0text"),
        png_chunk(b"iCCP", b"profile\0\0" + packed),
        png_chunk(b"iCCP", b"another\0\0" + packed),
    ]
    tracemalloc.start()
    try:
        decoded = decode(with_chunks(plain, *texts), SIZE, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(as_bytes(decoded), pixels)
    assert peak < 25_000_000, "the file is written and read twice, with 4 MB of texts that are not packed"


def test_a_large_profile_of_a_png_still_overrules_its_gamma():
    gamma = png_chunk(b"gAMA", struct.pack(">L", 100_000))
    profile = png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000)))
    plain = encode(Image.fromarray(noise()))
    linear = decode(plain[:33] + gamma + plain[33:], SIZE, LIMIT)
    assert np.array_equal(decode(plain[:33] + gamma + profile + plain[33:], SIZE, LIMIT), decode(plain, SIZE, LIMIT))
    assert not np.array_equal(linear, decode(plain, SIZE, LIMIT))


def test_an_orientation_in_a_text_of_a_png_is_kept():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>3</tiff:Orientation></x:xmpmeta>'
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
    pixels = noise()
    plain = encode(Image.fromarray(pixels))
    turned = decode(plain[:33] + text + plain[33:], SIZE, LIMIT)
    assert np.array_equal(as_bytes(turned), pixels[::-1, ::-1])


@pytest.mark.parametrize("chunk", [b"", b"\0\0\0", b"\xff\xff\xff\xfftEXtkey", b"\0\0\0\x09iTXtnothing"])
def test_a_png_with_a_broken_text_is_damaged_or_read(chunk):
    plain = encode(Image.fromarray(noise()))
    with contextlib.suppress(PictureRefused):
        assert decode(plain[:33] + chunk + plain[33:], SIZE, LIMIT).shape == (3, 8, 8)


JPEGS = [
    {},
    {"subsampling": "4:2:2", "optimize": True},
    {"subsampling": "4:4:4", "quality": 95},
    {"progressive": True},
    {"restart_marker_blocks": 1},
    {"restart_marker_rows": 1, "progressive": True},
]


@pytest.mark.parametrize("options", JPEGS)
def test_a_jpeg_without_its_end_is_read_and_one_that_lacks_more_is_refused(options):
    picture = Image.fromarray(noise(12, 9)).resize((200, 120), Image.Resampling.BICUBIC)
    whole = encode(picture, "JPEG", **options)
    read = decode(whole, SIZE, 10**6)
    assert np.array_equal(decode(whole[:-1], SIZE, 10**6), read)
    assert np.array_equal(decode(whole[:-2], SIZE, 10**6), read)
    for cut in (5, 8, 20, 50, 200, 1000, len(whole) // 2):
        with pytest.raises(DamagedImage, match="truncated or damaged"):
            decode(whole[:-cut], SIZE, 10**6)


@pytest.mark.parametrize("options", JPEGS)
def test_a_large_jpeg_without_its_end_costs_two_decodings_of_half_its_size(options, monkeypatch):
    picture = Image.fromarray(noise(120, 90)).resize((1200, 900), Image.Resampling.BICUBIC)
    whole = encode(picture, "JPEG", **options)
    read = decode(whole, SIZE, 10**7)
    sizes = []
    load = JpegImageFile.load

    def watched(opened):
        sizes.append(opened.size)
        return load(opened)

    monkeypatch.setattr(JpegImageFile, "load", watched)
    first_scan = unfinished_jpeg.first_scan(whole)
    ended = unfinished_jpeg.with_end(whole[:-2], first_scan)
    assert ended == whole
    assert unfinished_jpeg.is_whole(ended, first_scan)
    assert set(sizes) == {(600, 450)}
    assert np.array_equal(decode(whole[:-2], SIZE, 10**7), read)
    for cut in (8, 20, 200, 1000, 10_000, len(whole) // 2):  # more than the noise behind it has too
        with pytest.raises(DamagedImage, match="truncated or damaged"):
            decode(whole[:-cut], SIZE, 10**7)


def test_a_progressive_jpeg_that_ends_behind_a_scan_lacks_more_than_its_end():
    whole = encode(Image.fromarray(noise(64, 64)), "JPEG", progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    for start in scans[1:]:
        tables = whole.rfind(b"\xff\xc4", 0, start)
        with pytest.raises(DamagedImage):
            decode(whole[: tables if tables > scans[0] else start], SIZE, LIMIT)


def test_what_other_people_call_a_picture_is_not_taken_for_a_targa():
    """Its files have no signature."""
    cursor = b"\0\0\2\0\1\0\x20\x20\0\0\0\0\0\0\0\0\1\0" + bytes(200)
    for data in (cursor, bytes(300), b"\0\1\1" + bytes(300), b"PK\3\4" + bytes(300)):
        with pytest.raises(NotAnImage):
            decode(data, SIZE, LIMIT)


def test_an_icon_is_counted_before_it_is_decoded():
    bomb = png(100_000, 100_000, 8, 2, b"")
    with pytest.raises(TooManyPixels, match="10000000000 pixels"):
        decode(write_ico([((32, 32), 32, bomb)]), SIZE, LIMIT)
    bitmap = struct.pack("<LllHHLLllLL", 40, 60_000, 2 * 60_000, 1, 32, 0, 0, 0, 0, 0, 0)
    with pytest.raises(TooManyPixels, match="3600000000 pixels"):
        decode(write_ico([((32, 32), 32, bitmap)]), SIZE, LIMIT)


def large_headers() -> dict[str, bytes]:
    """Return small files of the newer formats that declare a huge size."""
    small: dict[str, bytearray] = {
        name: bytearray(encode(Image.new("RGB", (64, 64)), name))
        for name in ("AVIF", "HEIF", "JPEG2000", "QOI", "DDS", "TGA")
        if name in decoding.FORMATS
    }
    struct.pack_into(">LL", small["QOI"], 4, 60_000, 60_000)
    struct.pack_into("<LL", small["DDS"], 12, 60_000, 60_000)
    struct.pack_into("<HH", small["TGA"], 12, 60_000, 60_000)
    if "JPEG2000" in small:
        struct.pack_into(">LL", small["JPEG2000"], small["JPEG2000"].index(b"ihdr") + 4, 60_000, 60_000)
    for name in {"AVIF", "HEIF"} & {*small}:
        struct.pack_into(">LL", small[name], small[name].index(b"ispe") + 8, 16_000, 16_000)
        if name == "HEIF":  # it is cropped to its size
            at = small[name].find(b"clap")
            small[name][at : at + 4] = b"free" if at >= 0 else b""
    return {"PPM": b"P6 60000 60000 255\n", **{name: bytes(data) for name, data in small.items()}}


@pytest.mark.parametrize("file_format", sorted(large_headers()))
def test_pixels_of_the_newer_formats_are_counted_before_any_is_decoded(file_format):
    with pytest.raises(TooManyPixels, match="pixels, more than 10000"):
        decoding.open_picture(large_headers()[file_format], LIMIT)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 3), (4, 0), (8, 0), (8, 2), (8, 6), (16, 4), (16, 2)])
@pytest.mark.parametrize("adam7", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 1), (5, 7), (16, 9)])
def test_a_png_whose_data_end_before_its_pixels_is_refused(depth, colour, adam7, size):
    """The pixels are black, which is what Pillow leaves where none are: only the data tell."""
    palette = ((b"PLTE", bytes(12)),) if colour == 3 else ()
    whole = write_png(
        np.zeros((*size, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]), np.int64), depth, colour, palette, adam7
    )
    assert decode(whole, size, LIMIT).shape == (3, *size)
    at = whole.index(b"IDAT")
    (length,) = struct.unpack_from(">L", whole, at - 4)
    rows = zlib.decompress(whole[at + 4 : at + 4 + length])
    short = whole[: at - 4] + png_chunk(b"IDAT", zlib.compress(rows[:-1])) + png_chunk(b"IEND", b"")
    with pytest.raises(DamagedImage, match="truncated or damaged"):
        decode(short, size, LIMIT)


@pytest.mark.parametrize("level", [0, 200])
@pytest.mark.parametrize("packing", [0, 9])
def test_a_png_that_is_cut_behind_its_pixels_is_read_whatever_they_are(level, packing):
    """The file ends within its last chunk of data, and only the checksums behind the pixels are lost."""
    header = encode(Image.new("RGB", (6, 5), (level,) * 3))
    packed = zlib.compress(bytes([0, *[level] * 18]) * 5, packing)
    whole = header[: header.index(b"IDAT") - 4] + png_chunk(b"IDAT", packed)
    expected = np.full((3, 5, 6), np.float32(level) / np.float32(255))
    assert np.array_equal(decode(whole + png_chunk(b"IEND", b""), (5, 6), LIMIT), expected)
    for cut in range(1, 8):  # a checksum of the chunk, and part of that of the compressed data
        assert np.array_equal(decode(whole[:-cut], (5, 6), LIMIT), expected), cut
    for cut in range(len(packed) - 3, len(packed)):
        with pytest.raises(DamagedImage):
            decode(whole[: -cut - 4], (5, 6), LIMIT)


def test_a_bmp_that_pillow_knows_in_headers_only_is_no_damage():
    data = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    data[28:30] = (2).to_bytes(2, "little")
    with pytest.raises(UnsupportedPixels, match="not read"):
        decode(bytes(data), (4, 4), LIMIT)


@pytest.mark.parametrize("head", [b"P2\n40 30\n255\n", b"P3\n40 30\n255\n", b"P2\n40 30\n65535\n"])
def test_a_plain_pgm_with_too_few_samples_is_damaged(head):
    """NumPy would fill up the rest with what another picture has left in memory."""
    samples = 3600 if head.startswith(b"P3") else 1200
    for _ in range(50):
        left_behind = [np.full(samples, 7) for _ in range(9)]
        del left_behind[::2]
        with pytest.raises(DamagedImage):
            decode(head + b"1 2 3\n", SIZE, LIMIT)
    with pytest.raises(DamagedImage):
        decode(head + b"1 " * 600 + b"x" + b" 1" * 3000, SIZE, LIMIT)
    whole = decode(head + b"9 " * 3600 + b"P2 another", SIZE, LIMIT)
    assert np.ptp(whole) == 0
