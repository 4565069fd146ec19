"""Read the names of classes from the command line. Nothing here imports PyTorch."""

import os
from pathlib import Path

from sgn_serve.common.command_parser import did_you_mean
from training.common.command_line import OptionError

CIFAR10 = "cifar10"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

HELP = f"names of the classes in the order of the logits: a,b,c, or {CIFAR10}, or a text file with a name a line"
"""The effect of --classes in words, for --help."""


def read_class_names(text: str) -> tuple[str, ...]:
    """Return the names that --classes stands for.

    Args:
        text: Names with commas between them, "cifar10", or the path of a file with a name a line.

    Raises:
        OptionError: There are fewer than two, one of them comes twice, or one is empty. Or the file cannot be read.
    """
    if text == CIFAR10:
        return CIFAR10_CLASSES
    parts = text.split(",") if "," in text or not _names_a_file(text) else _lines(text)
    if "," in text and not all(part.strip() for part in parts):
        raise OptionError(f"--classes {text!r} has an empty name; put a name between any two commas")
    names = tuple(part.strip() for part in parts if part.strip())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"--classes names {twice!r} twice; give each class a name of its own")
    if len(names) < 2:
        suggested = did_you_mean(text, (CIFAR10,))
        raise OptionError(
            f"--classes {text!r} names {len(names)} class; {suggested}pass a,b,c, {CIFAR10} or a file of names"
        )
    return names


def _names_a_file(text: str) -> bool:
    """Return whether a text is the path of a file, there or not, rather than a name."""
    return os.path.exists(text) or os.sep in text or bool(Path(text).suffix[1:].isalpha())


def _lines(file: str) -> list[str]:
    """Return the lines of a file of names.

    Raises:
        OptionError: There is no such file, or it is no text.
    """
    try:
        return Path(file).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "it is a folder"
    except UnicodeDecodeError:
        reason = "it is no text"
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    raise OptionError(f"--classes {file}: {reason}; pass a,b,c, {CIFAR10} or a file with a name a line")
