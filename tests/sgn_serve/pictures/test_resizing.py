import numpy as np
import pytest
from PIL import Image

from sgn_serve.pictures.decoding import decode
from tests.sgn_serve.odd_pictures import STORED
from tests.sgn_serve.sample_pictures import encode, noise

LIMIT = 1_000_000
BILINEAR = Image.Resampling.BILINEAR


def values(file, size, resize, background=(255, 255, 255)):
    found = decode(file, size, LIMIT, background, resize=resize)
    return np.rint(found * 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "CMYK"])
@pytest.mark.parametrize(("height", "width"), [(80, 40), (40, 80), (40, 120), (20, 10)])
def test_crop_is_the_middle_of_the_picture_whose_shorter_side_fits(mode, height, width):
    picture = Image.fromarray(noise(height, width)).convert(mode)
    scale = 20 / min(height, width)
    whole = picture.convert("RGB").resize((round(width * scale), round(height * scale)), BILINEAR)
    left, top = (whole.width - 20) // 2, (whole.height - 20) // 2
    expected = np.asarray(whole.crop((left, top, left + 20, top + 20)))
    found = values(encode(picture, "TIFF"), (20, 20), "crop")
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize(("height", "width"), [(80, 40), (40, 80), (5, 40)])
def test_pad_is_the_whole_picture_on_the_background(mode, height, width):
    picture = Image.fromarray(noise(height, width)).convert(mode)
    scale = 20 / max(height, width)
    inner = picture.convert("RGB").resize((max(1, round(width * scale)), max(1, round(height * scale))), BILINEAR)
    expected = Image.new("RGB", (20, 20), (0, 128, 255))
    expected.paste(inner, ((20 - inner.width) // 2, (20 - inner.height) // 2))
    assert np.array_equal(values(encode(picture), (20, 20), "pad", (0, 128, 255)), np.asarray(expected))


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_picture_of_the_networks_aspect_is_as_stretched(resize):
    for height, width in ((20, 30), (40, 60), (10, 15)):
        file = encode(Image.fromarray(noise(height, width)))
        assert np.array_equal(values(file, (20, 30), resize), values(file, (20, 30), "stretch"))


@pytest.mark.parametrize("resize", ["crop", "pad"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_are_resized_as_upright_ones(orientation, resize):
    upright = Image.fromarray(noise(31, 48))
    stored = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encode(upright if stored is None else upright.transpose(stored), exif=exif)
    found, expected = (values(file, (21, 15), resize).astype(int) for file in (turned, encode(upright)))
    assert np.abs(found - expected).max() <= 1, "but for rounding"


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="stretch, crop, pad"):
        values(encode(Image.fromarray(noise())), (4, 4), "squeeze")
