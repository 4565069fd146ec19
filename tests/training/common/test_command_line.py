"""Numbers from the command line, and ranges of options."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from sgn_serve.common.command_parser import CommandParser
from training.common.command_line import INTENSITY, Option, OptionError, flag, number
from training.common.described_options import add_options, given_options


def test_numbers_may_be_fractions():
    assert number("8/255") == 8 / 255
    assert number("-1/2") == -0.5
    assert number("1e-3") == 0.001


@pytest.mark.parametrize("text", ["", "eight", "1/0", "1/2/3", "nan", "inf", "0.5/x", "1e999/1", "9e999"])
def test_what_is_no_finite_number_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"write it like 0\.1 or 8/255"):
        number(text)


@pytest.mark.parametrize(
    ("option", "text", "allowed", "refused"),
    [
        (Option("", minimum=1), "at least 1", [1, 2], [0.99, -1]),
        (Option("", above=0), "above 0", [0.01], [0, -1]),
        (Option("", maximum=2), "at most 2", [2, -5], [2.01]),
        (Option("", below=2), "below 2", [1.99], [2]),
        (Option("", minimum=0, below=1), "in [0, 1)", [0, 0.99], [1, -0.01]),
        (Option("", above=0, maximum=1), "in (0, 1]", [0.01, 1], [0, 1.01]),
        (Option(""), "", [0, -3e38], [math.inf, 4e38, -1e300]),
    ],
)
def test_a_range_is_told_as_it_is_checked(option, text, allowed, refused):
    assert option.range == text
    assert all(option.allows(value) for value in allowed)
    assert not any(option.allows(value) for value in [*refused, math.nan])
    for value in refused:
        with pytest.raises(OptionError, match="--my-option must be"):
            option.check("my_option", value)


def test_a_refusal_names_the_fix():
    intensity = Option("", minimum=0, below=1, unit=INTENSITY, hint="pass less")
    for value, fix in ((8, "; write 8 of 255 levels as 8/255"), (300, "; pass less"), (-1, "; pass less")):
        with pytest.raises(OptionError, match=fix):
            intensity.check("epsilon", value)
    with pytest.raises(OptionError, match="--view: unknown view 'far'; known are: near, nearer"):
        Option("", choices=("near", "nearer")).check("view", "far")


@dataclass(frozen=True)
class Written:
    """A record with a file to write and a folder to read."""

    out: Annotated[Path, Option("", writes=True)] = Path("x")
    data: Annotated[Path, Option("")] = Path("y")


def test_a_file_to_write_is_no_folder(capsys):
    parser = CommandParser("program")
    add_options(parser, Written)
    assert given_options(Written, parser.parse_args(["--out=a/b", "--data=."])) == {"out": Path("a/b"), "data": Path()}
    with pytest.raises(SystemExit):
        parser.parse_args(["--out=."])
    assert capsys.readouterr().err.startswith("error: argument --out: '.' is a folder; name a file in it\n")


def test_options_that_are_left_away_and_items_of_several():
    Option("", minimum=1).check("milestones", None)
    Option("", minimum=1).check("milestones", (1, 2))
    with pytest.raises(OptionError, match="not 0"):
        Option("", minimum=1).check("milestones", (1, 0))
    assert flag("attack_step_size") == "--attack-step-size"
