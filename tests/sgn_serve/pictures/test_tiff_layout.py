import struct
import zlib

import pytest
from PIL import Image

from sgn_serve.pictures import decoding
from sgn_serve.pictures.errors import DamagedImage, NotAnImage, TooSlow
from sgn_serve.pictures.tiff_layout import is_tiff, read_layout
from tests.sgn_serve.sample_pictures import TIFF_DATA, encode, noise, tiff

PIXELS = zlib.compress(bytes(16 * 16))
TAGS = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 273: TIFF_DATA, 277: 1, 278: 16, 279: len(PIXELS)}
TILES = {tag: value for tag, value in TAGS.items() if tag not in (273, 278, 279)}
TILES |= {322: 16, 323: 16, 324: TIFF_DATA, 325: len(PIXELS)}


def opened(data):
    return decoding.open_picture(data, 10_000)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
@pytest.mark.parametrize("big", [False, True])
def test_what_pillow_writes_is_read(compression, big):
    file = encode(Image.fromarray(noise(40, 30)), "TIFF", compression=compression, big_tiff=big)
    assert is_tiff(file)
    layout = read_layout(file)
    assert (layout.pixels, layout.blocks) == (1200, 1)
    assert 0 <= layout.encoded_bytes < len(file)
    assert decoding.decode(file, (8, 8), 10_000).shape == (3, 8, 8)


def test_strips_and_tiles_are_counted():
    strips = read_layout(tiff(PIXELS, TAGS | {278: 5, 273: [8] * 4, 279: [len(PIXELS)] * 4}))
    assert (strips.pixels, strips.blocks, strips.encoded_bytes) == (256, 4, 4 * len(PIXELS))
    assert strips.memory == 16 * 5
    assert read_layout(tiff(PIXELS, TAGS | {278: 1 << 30})).memory == 256, "a strip ends where the picture does"
    tiles = read_layout(tiff(PIXELS, TILES | {257: 17, 322: 10, 323: 30, 277: 3, 258: [8] * 3, 284: 2}))
    assert (tiles.pixels, tiles.blocks) == (600, 6), "two tiles of each of three planes"
    assert tiles.memory == 10 * 30 * 3


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (TILES | {322: (17, 1, 16)}, "tag 322 has 1 values of type 17"),  # libtiff reads it, Pillow does not
        (TILES | {322: (99, 1, 16)}, "tag 322 has 1 values of type 99"),
        (TILES | {323: [16, 16]}, "tag 323 has 2 values instead of one"),
        (TILES | {270: (2, 100, 1 << 20)}, "tag 270 reaches beyond the file"),  # Pillow reads no tag after it
        (TILES | {32998: 100}, "volume"),
        (TILES | {323: 0}, "zero"),
        ({tag: value for tag, value in TILES.items() if tag != 323}, "missing"),
        (TILES | TAGS, "strips and tiles"),
        (TAGS | {256: (3, 0, 16)}, "tag 256 has 0 values"),
        (TAGS | {273: (1, 1, 8)}, "tag 273 has 1 values of type 1"),
    ],
)
def test_what_decoders_would_read_differently_is_refused(tags, reason):
    with pytest.raises(DamagedImage, match=reason):
        opened(tiff(PIXELS, tags))


def test_a_size_that_occurs_twice_is_refused():
    file = tiff(PIXELS, TILES | {321: 1 << 20})

    def renamed(old, new):
        return file.replace(struct.pack("<HH", old, 4), struct.pack("<HH", new, 4))

    with pytest.raises(DamagedImage, match="tag 322 occurs twice"):
        opened(renamed(321, 322))
    file = tiff(PIXELS, TILES | {304: 1 << 20, 305: 1 << 20})
    assert opened(renamed(304, 305)).size == (16, 16), "a description may occur twice"


def test_a_big_endian_bigtiff_is_refused():
    with pytest.raises(DamagedImage, match="little-endian"):
        opened(b"MM\0\x2b\0\x08\0\0" + bytes(100))


@pytest.mark.parametrize("kind", [3, 4, 5, 9, 10, 12])
def test_tags_of_very_many_values_are_refused(kind):
    count = 40_000 if kind in (5, 10) else 400_000
    data = bytes(count * 8)
    for tag in (282, 40_000):
        with pytest.raises(DamagedImage, match=f"too many values, tag {tag} {count}"):
            opened(tiff(data, TAGS | {tag: (kind, count, TIFF_DATA)}))


def test_a_directory_beyond_the_file_is_refused():
    bigtiff = b"II\x2b\0\x08\0\0\0" + b"\xff" * 8
    for file in (bigtiff, b"II\x2a\0" + b"\xff" * 4, tiff(PIXELS, TAGS)[:-12], b"II\x2a\0", bigtiff[:9]):
        with pytest.raises(DamagedImage, match="cut off"):
            opened(file)


def test_more_places_than_strips_are_refused():
    """Pillow makes an object of each value."""
    places = {273: (4, 100_001, TIFF_DATA), 259: 1, 279: 256}
    with pytest.raises(TooSlow, match="100001 strips or tiles, more than 100000"):
        opened(tiff(bytes(4 * 100_001), TAGS | places))


def test_tags_that_share_what_they_say_are_refused():
    """Pillow reads and keeps each of them."""
    data = PIXELS + bytes(1000)
    shared = {40_000 + number: (1, len(data), TIFF_DATA) for number in range(3)}
    with pytest.raises(DamagedImage, match="too many values"):
        opened(tiff(data, TAGS | shared))
    assert opened(tiff(data, TAGS | {40_000: (1, len(data), TIFF_DATA)})).size == (16, 16)


@pytest.mark.parametrize("tag", [34665, 34853])
def test_exif_of_very_many_values_is_refused(tag):
    below = tiff(bytes(8 * 60_000), {37_000: (5, 60_000, TIFF_DATA)})
    (offset,) = struct.unpack_from("<L", below, 4)
    with pytest.raises(DamagedImage, match="too many values, tag 37000"):
        opened(tiff(below[8:], TAGS | {tag: offset}))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("offset", [1, 1 << 31])
def test_damaged_exif_does_not_make_a_picture_unreadable(offset):
    file = tiff(PIXELS, TAGS | {34665: (4, 1, offset)})
    assert decoding.decode(file, (16, 16), 256).max() == 0


def test_what_is_no_tiff_is_not_called_one():
    with pytest.raises(NotAnImage):
        opened(b"II think, therefore" + bytes(100))
