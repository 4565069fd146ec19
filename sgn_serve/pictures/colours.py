"""Read and write colours as texts such as #ffffff."""

import re

RGB = tuple[int, int, int]


def parse_colour(text: object) -> RGB:
    """Return the red, green and blue, 0 to 255, of a text such as #ffffff.

    Raises:
        ValueError: It is no such text.
    """
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{text!r} is no colour such as #ffffff")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def colour_text(colour: RGB) -> str:
    """Return a colour as a text such as #ffffff."""
    return "#" + bytes(colour).hex()
