"""Have TIFFs with separate colour planes decoded rightly, or refuse them.

Pillow reads a plane without compression as 8-bit samples, white at one, whatever its tags say. It also puts the alpha
plane of grey and palette pictures into the wrong channel.
"""

from PIL import Image, ImageFile, TiffImagePlugin

from sgn_serve.pictures.errors import UnsupportedPixels

_SEPARATE = 2
_REVERSED = 2
"""Fill order of pixels whose bits run from the lowest to the highest."""
_PREMULTIPLIED = 1
_SIGNED = 2
_YCBCR = 6
_MODES = ("RGB", "RGBA", "CMYK")
"""Modes whose planes libtiff's decoder puts where they belong. It takes the signed planes of LAB for unsigned ones."""


def correct(picture: Image.Image) -> None:
    """Correct how an opened TIFF will be decoded.

    Args:
        picture: Opened and not decoded yet. Nothing happens to one that Pillow reads rightly.

    Raises:
        UnsupportedPixels: It has separate planes of a kind that no decoder here reads rightly, or signed samples.
    """
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return
    tags = picture.tag_v2
    if picture.mode not in ("I", "F") and _SIGNED in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)):
        raise UnsupportedPixels(
            "the TIFF picture has signed samples, whose black is unknown; save it with unsigned ones"
        )
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) != _SEPARATE:
        return
    if tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) == 1:
        # A single plane is stored as in any other picture.
        tags[TiffImagePlugin.PLANAR_CONFIGURATION] = 1
        picture._setup()
        return
    if picture.use_load_libtiff and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _YCBCR:
        return  # libtiff makes RGB of it
    if picture.mode not in _MODES:
        raise UnsupportedPixels(
            f"the TIFF picture has separate planes of kind {picture.mode}; save it with interleaved samples"
        )
    if not picture.use_load_libtiff and not _plain(picture):
        wide = set(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) == {16}
        samples = f"{picture.mode};16N" if wide else picture.mode  # libtiff gives 16 bits in the machine's order
        tile = ImageFile._Tile("libtiff", (0, 0, *picture._tile_size), 0, (samples, False, tags.offset))
        picture.use_load_libtiff, picture.tile = True, [tile]


def _plain(picture: TiffImagePlugin.TiffImageFile) -> bool:
    """Return whether planes without compression are what Pillow takes all of them for."""
    tags = picture.tag_v2
    return (
        set(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) == {8}
        and tags.get(TiffImagePlugin.FILLORDER, 1) != _REVERSED
        and _PREMULTIPLIED not in tags.get(TiffImagePlugin.EXTRASAMPLES, ())
    )
