from PIL import Image

from sgn_serve.pictures.jpeg_header import Header, read_header
from tests.sgn_serve.sample_pictures import encode, jpeg_segments, noise


def test_the_first_scan_is_found_behind_a_thumbnail():
    """A thumbnail is a JPEG inside of a segment: it has scans, and EXIF, of its own."""
    thumbnail = encode(Image.fromarray(noise()), "JPEG")
    exif = b"Exif\0\0" + thumbnail
    picture = encode(Image.fromarray(noise(64, 64)), "JPEG", progressive=True)
    file = picture[:2] + jpeg_segments(0xE1, [exif]) + picture[2:]
    assert read_header(file) == Header(
        exif_bytes=len(exif) + 2, first_scan=len(file) - len(picture) + picture.index(b"\xff\xda"), components=3
    )


def test_components_of_the_first_scan():
    for mode, components in (("L", 1), ("RGB", 3), ("CMYK", 4)):
        assert read_header(encode(Image.new(mode, (8, 8)), "JPEG")).components == components


def test_fill_bytes_and_rubbish_between_segments_are_passed_over():
    picture = encode(Image.new("L", (8, 8)), "JPEG")
    file = picture[:2] + b"\xff\xff\xff" + jpeg_segments(0xFE, [b"\xff\xda"]) + b"rubbish\xff\0" + picture[2:]
    assert file[read_header(file).first_scan :] == picture[picture.index(b"\xff\xda") :]


def test_a_file_that_ends_early_has_no_scan():
    picture = encode(Image.new("L", (8, 8)), "JPEG")
    for end in range(picture.index(b"\xff\xda") + 4):
        assert read_header(picture[:end]).first_scan == 0
