"""Test without a server what is not logged."""

import warnings

import pytest
from PIL import TiffImagePlugin

from sgn_serve.pictures import decoding
from sgn_serve.telemetry.logs import ignore_pillow
from tests.sgn_serve.sample_pictures import odd_exif


def test_pictures_that_pillow_finds_odd_leave_nothing_behind(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # a server prints them
        with pytest.warns(UserWarning, match="Skipping tag 271"):
            decoding.decode(odd_exif(271), (8, 8), 64)
        ignore_pillow()
        for tag in (272, 305, 315):
            assert decoding.decode(odd_exif(tag), (8, 8), 64).shape == (3, 8, 8)
        kept = [entry for entry in vars(TiffImagePlugin)["__warningregistry__"] if entry != "version"]
        assert kept == [], "Python remembers what it has shown"
    assert capfd.readouterr() == ("", "")
