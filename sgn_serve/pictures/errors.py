"""Why a picture is refused. Nothing here knows HTTP or the rest of the service; whoever serves maps the codes."""

from typing import ClassVar


class PictureRefused(Exception):
    """Base of everything that a picture file is refused for. The message says what is wrong, in one line.

    Attributes:
        code: A constant for programs, one for each subclass.
        retry_after: Seconds, 1 or more, after which another try may succeed. None where waiting does not help.
    """

    code: ClassVar[str]
    retry_after: int | None = None


class NotAnImage(PictureRefused):
    """The file has none of the accepted formats."""

    code = "not_an_image"


class TooManyPixels(PictureRefused):
    """The picture has more pixels than allowed, or decoding it needs too much memory."""

    code = "too_many_pixels"


class DamagedImage(PictureRefused):
    """The file starts like a picture, but cannot be decoded to the end."""

    code = "damaged_image"


class DecoderCrashed(PictureRefused):
    """The file has ended the process that decoded it, other than by its bounds."""

    code = "decoder_crashed"


class UnsupportedPixels(PictureRefused):
    """The pixels, such as floating-point ones, have no known black and white."""

    code = "unsupported_pixels"


class TooSlow(PictureRefused):
    """Decoding the picture takes longer than allowed."""

    code = "too_slow_to_decode"


class TooManyWaiting(PictureRefused):
    """Too many large pictures of other requests wait to be decoded.

    Args:
        retry_after: Seconds, 1 or more, after which those that wait now should be decoded.
    """

    code = "overloaded"

    def __init__(self, retry_after: int):
        super().__init__(f"too many large pictures are waiting; try again in {retry_after} s")
        self.retry_after = retry_after
