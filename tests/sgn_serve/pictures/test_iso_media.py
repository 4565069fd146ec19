"""Boxes of AVIF files: only a property of the picture, or of a sequence's track, says that it is cropped."""

import struct

import pytest
from PIL import Image, features

from sgn_serve.pictures.iso_media import is_cropped
from tests.sgn_serve.sample_pictures import encode

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def box(name: bytes, content: bytes, form: str = "plain") -> bytes:
    """Write a box: its size in 32 bits, in 64 bits, or up to the end of the file."""
    if form == "long":
        return struct.pack(">L4sQ", 1, name, 16 + len(content)) + content
    return struct.pack(">L4s", 0 if form == "open" else 8 + len(content), name) + content


def in_picture(property_: bytes, form: str = "plain") -> bytes:
    properties = box(b"iprp", box(b"ipco", box(b"ispe", bytes(12), form) + property_, form), form)
    return box(b"ftyp", b"avif" + bytes(4)) + box(b"meta", bytes(4) + box(b"hdlr", bytes(24)) + properties, form)


def in_sequence(property_: bytes) -> bytes:
    content = box(b"stsd", bytes(8) + box(b"av01", bytes(78) + property_))
    for name in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        content = box(name, content)
    return box(b"ftyp", b"avis" + bytes(4)) + content


@pytest.mark.parametrize("form", ["plain", "long"])
def test_a_property_says_that_a_picture_is_cropped(form):
    assert is_cropped(in_picture(box(b"clap", bytes(32), form), form))
    assert not is_cropped(in_picture(box(b"irot", bytes(1), form), form))


def test_a_box_may_go_on_to_the_end():
    clap = box(b"clap", bytes(32))
    for form in ("plain", "open"):
        ipco = box(b"ipco", clap, form)
        assert is_cropped(box(b"meta", bytes(4) + box(b"iprp", ipco, form), form))


def test_a_track_of_a_sequence_may_be_cropped():
    assert is_cropped(in_sequence(box(b"clap", bytes(32))))
    assert not is_cropped(in_sequence(box(b"pasp", bytes(8))))


@pytest.mark.parametrize("frames", [1, 2])
def test_the_word_elsewhere_crops_nothing(frames):
    whole = encode(
        Image.new("RGB", (16, 16)),
        "AVIF",
        save_all=frames > 1,
        append_images=[Image.new("RGB", (16, 16), "red")] * (frames - 1),
    )
    assert not is_cropped(whole)
    at = whole.index(b"hdlr") + 12
    assert whole[at : at + 4] == b"pict"
    named = whole[: at + 4] + b"clap" + whole[at + 8 :]
    assert not is_cropped(named)
    assert not is_cropped(whole + box(b"free", b"clap"))
    at = whole.index(b"mdat")
    assert not is_cropped(whole[: at + 4] + b"clap" + whole[at + 8 :])


@pytest.mark.parametrize("data", [b"", bytes(16), b"\0\0\0\7meta" + bytes(20), b"\0\0\0\1meta", box(b"meta", b"")])
def test_broken_boxes_say_nothing(data):
    assert not is_cropped(data)


def test_boxes_in_boxes_are_read_once():
    deep = box(b"clap", b"")
    levels = 20_000
    head = b"".join(struct.pack(">L4s", 8 * level + len(deep), b"ipco") for level in range(levels, 0, -1))
    assert is_cropped(head + deep)
