"""Read the names of classes from the command line. Nothing here imports PyTorch."""

from pathlib import Path

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
        OptionError: There are fewer than two, one of them comes twice, or one is empty.
    """
    if text == CIFAR10:
        return CIFAR10_CLASSES
    path = Path(text)
    parts = path.read_text().splitlines() if "," not in text and path.is_file() else text.split(",")
    if "," in text and not all(part.strip() for part in parts):
        raise OptionError(f"--classes {text!r} has an empty name; put a name between any two commas")
    names = tuple(part.strip() for part in parts if part.strip())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"--classes names {twice!r} twice; give each class a name of its own")
    if len(names) < 2:
        raise OptionError(f"--classes {text!r} names {len(names)} class; pass a,b,c, {CIFAR10} or a file of names")
    return names
