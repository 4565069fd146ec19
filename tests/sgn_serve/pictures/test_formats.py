import subprocess
import sys

import pytest

from sgn_serve.pictures import files, formats
from sgn_serve.pictures.colours import colour_text, parse_colour


def test_suffixes_and_media_types_are_those_of_the_formats():
    assert formats.suffixes(("PNG", "JPEG")) == (".apng", ".png", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo")
    assert formats.suffixes(("BMP", "TGA")) == (".bmp", ".dib", ".icb", ".tga", ".vda", ".vst")
    assert formats.media_types(("PNG", "TIFF", "PPM")) == ("image/png", "image/tiff", "image/x-portable-anymap")
    assert formats.suffixes(formats.AVAILABLE) == files.SUFFIXES
    for row in formats.format_rows():
        assert (row.suffixes != ()) is (row.name in formats.AVAILABLE)


def test_no_format_needs_another_program():
    assert not {"EPS", "WMF", "PSD", "PDF", "MPEG", "GRIB", "HDF5"} & {*formats.KNOWN}


def test_what_is_not_installed_is_left_out_and_said(project_root):
    """Test a Python without pillow-heif, whose Pillow was built without two libraries."""
    program = """
import sys
sys.modules["pillow_heif"] = None
from PIL import features
check = features.check
features.check = lambda name: name not in ("avif", "jpg_2000") and check(name)
from sgn_serve.pictures import formats
from sgn_serve.settings import Settings
assert Settings.from_environment({}).formats == formats.AVAILABLE
print(*(name for name in formats.KNOWN if name not in formats.AVAILABLE))
print(formats.lacking("JPEG2000"))
print(formats.lacking("HEIF"))
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said[0] == "AVIF HEIF JPEG2000"
    assert said[1].startswith("this build of Pillow has no jpg_2000; install")
    assert said[2].endswith('install it: pip install ".[heic]"')


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#0a80fF"])
def test_a_colour_is_read_as_it_is_written(colour):
    assert colour_text(parse_colour(colour)) == colour.lower()


@pytest.mark.parametrize("wrong", ["white", "#fff", "#fffffg", "ffffff", "#ffffff ", 5, None])
def test_other_things_are_no_colours(wrong):
    with pytest.raises(ValueError, match="no colour such as #ffffff"):
        parse_colour(wrong)
