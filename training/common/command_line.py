"""Numbers on the command line."""

from fractions import Fraction


def number(text: str) -> float:
    """A float, or a fraction such as 8/255.

    raises ValueError for anything else
    """
    return float(Fraction(text)) if "/" in text else float(text)
