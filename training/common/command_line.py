"""Read numbers from the command line, and describe and check options."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sgn_serve.common.command_parser import did_you_mean
from training.common.errors import TrainingError

INTENSITY = "units of pixel intensity"
"""The unit of what is added to a pixel in [0, 1]."""

_TOO_LARGE = 2**63
"""Whole numbers from here on overflow in PyTorch and NumPy."""
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127
"""The largest finite float32, 3.4e38. PyTorch refuses to compute with larger numbers."""


class OptionError(TrainingError):
    """An option's value is out of range, or the option does not go with the others. The message names the fix."""


def number(text: str) -> float:
    """Return the number that a text such as "0.1" or "8/255" stands for.

    Raises:
        argparse.ArgumentTypeError: It is no finite number. argparse prints the message after the option's name.
    """
    try:
        value = float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write it like 0.1 or 8/255")
    return value


def flag(name: str) -> str:
    """Return the command-line flag of the option that is called `name` in Python."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Option:
    """The description of an option for the command line, the checks and the documentation, without type and default.

    Attributes:
        help: Its effect in words, for --help and the documentation.
        minimum: Lowest value that is allowed.
        above: Bound that every value must exceed.
        maximum: Highest value that is allowed.
        below: Bound that no value may reach.
        choices: The values that are allowed, where only a few are. Empty for a Literal type, which names its own.
        methods: The training methods that it does anything for. Empty for all of them.
        unit: The unit, for the message about a value out of range.
        hint: The usual intention behind a value out of range, and the fix.
        required: Whether the command line insists on it.
        default: The default in words, where it depends on the machine or the value does not say what it means.
        metavar: The name of its value in --help, where the kind of value does not say enough.
        some: Whether an option of several values needs one at least.
        aliases: Other flags that mean the same.
        alone: The value where the flag stands alone. "" where it needs one.
        read: How its value is read from a text, where its type does not say that.
        writes: Whether a path is a file that is written, so that no folder may be named.
    """

    help: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    unit: str = ""
    hint: str = ""
    required: bool = False
    default: str = ""
    metavar: str = ""
    some: bool = False
    aliases: tuple[str, ...] = ()
    alone: str = ""
    read: Callable[[str], Any] | None = None
    writes: bool = False

    @property
    def range(self) -> str:
        """The allowed numbers as text, such as "in [0, 1)" or "at least 1". Empty where all are."""
        low = self.minimum if self.above is None else self.above
        high = self.maximum if self.below is None else self.below
        if low is None and high is None:
            return ""
        if high is None:
            return f"{'at least' if self.above is None else 'above'} {low}"
        if low is None:
            return f"{'at most' if self.below is None else 'below'} {high}"
        return f"in {'[' if self.above is None else '('}{low}, {high}{']' if self.below is None else ')'}"

    def allows(self, value: float) -> bool:
        """Return whether a number is within the range, and one that 64 bits or a float32 hold. NaN never is."""
        if isinstance(value, int) and abs(value) >= _TOO_LARGE:
            return False
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
            and abs(value) <= LARGEST_FLOAT
        )

    def check(self, name: str, value: Any) -> None:
        """Check an option's value against its choices and its range.

        Args:
            name: The field's name in Python.
            value: Its value. Each item of a tuple is checked. None and "" stand for an option that is left away.

        Raises:
            OptionError: The value is not allowed.
        """
        if self.choices and value is not None and value not in self.choices:
            suggested = did_you_mean(str(value), self.choices)
            raise OptionError(
                f"{flag(name)}: unknown {name} {value!r}; {suggested}known are: {', '.join(self.choices)}"
            )
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float) and not self.allows(item):
                unit = f", {self.unit}" if self.unit else ""
                allowed = self.range or "a finite number"
                if isinstance(item, int) and abs(item) >= _TOO_LARGE:
                    raise OptionError(f"{flag(name)} must be {allowed}{unit}, and a number that 64 bits hold")
                if math.isfinite(item) and abs(item) > LARGEST_FLOAT:
                    raise OptionError(
                        f"{flag(name)} must be {allowed}{unit}, and a number that 32 bits hold, not {item:g}; the "
                        f"largest is {LARGEST_FLOAT:.1e}"
                    )
                found = str(item) if isinstance(item, int) else f"{item:g}"
                raise OptionError(f"{flag(name)} must be {allowed}{unit}, not {found}{self._fix(item)}")

    def _fix(self, value: float) -> str:
        if self.unit == INTENSITY and 1 <= value <= 255:
            return f"; write {value:g} of 255 levels as {value:g}/255"
        return f"; {self.hint}" if self.hint else ""
