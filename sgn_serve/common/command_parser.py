"""Parse a command line: an error comes first, with the nearest known name, and then one line of usage.

Every program of this project parses its arguments with CommandParser. Nothing that takes time is imported here.
"""

import argparse
import difflib
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sgn_serve.common.error_text import visible

USAGE_ERROR = 2
"""Exit status after wrong arguments."""

_SIMILAR = 0.6
_MOST_SUGGESTIONS = 3
_SHOWN = 60
"""Most characters of a wrong value in a message."""

_LONGER = 24
"""Characters by which the name of an unfinished file, or of a folder of parts, is longer than that of the whole one."""

_Number = TypeVar("_Number", int, float)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a question that suggests the known names nearest to a name, such as "did you mean silu? ".

    Args:
        name: The name that is not known.
        known: The names that are.
        prefix: What all names begin with. It is not compared.

    Returns:
        The question with a space at its end, "" where no known name is similar.
    """
    by_lower = {one.removeprefix(prefix).lower(): one for one in known}
    name = name.removeprefix(prefix)
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=_MOST_SUGGESTIONS, cutoff=_SIMILAR)
    if not nearest:  # compare without the part after "-": pdg suggests pgd-20
        by_lower = {one.lower().partition("-")[0]: one for one in reversed(by_lower.values())}
        nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=_SIMILAR)
    return f"did you mean {' or '.join(by_lower[one] for one in nearest)}? " if nearest else ""


def whole_number(text: str) -> int:
    """Return the whole number that a text stands for.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    return _number(int, "a whole number", text)


def any_number(text: str) -> float:
    """Return the number that a text stands for.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    return _number(float, "a number", text)


def positive_number(text: str, of: str = "") -> int:
    """Return the number of things that a text stands for, one at least.

    Args:
        text: The text.
        of: The things, such as " of rows", for the message.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number{of}; give 1 or more")
    return number


def _number(kind: type[_Number], words: str, text: str) -> _Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {words}, not {text[:_SHOWN]!r}") from None


def file_to_write(text: str) -> Path:
    """Return the path of a file that a command writes, as argparse's type of an option.

    Raises:
        argparse.ArgumentTypeError: It names a folder: one that is there, or one by a slash at its end. Or it is so long
            that unfinished files beside it could not be made.
    """
    path = Path(text)
    if not path.name or path.name == ".." or text.endswith(("/", os.sep)) or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file in it")
    if not _fault(text) and (fault := _fault(text + "x" * _LONGER)):
        raise argparse.ArgumentTypeError(
            f"{_cut(text)!r} leaves no room for unfinished files beside it, whose names are up to {_LONGER} characters "
            f"longer ({fault}); give a shorter name"
        )
    return path


def folder_to_write(text: str) -> Path:
    """Return the path of a folder that a command makes and writes to, as argparse's type of an option.

    Raises:
        argparse.ArgumentTypeError: It is a file that is there.
    """
    if os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder")
    return Path(text)


def path_text(text: str) -> str:
    """Return a path as it is written, as argparse's type of an option that keeps it as a text."""
    return text


_PATHS = (Path, file_to_write, folder_to_write, path_text)
"""Types of arguments that are paths."""
_READ = (Path, path_text)
"""Types of paths to read. A plain Path may also be a file that a command adds to."""


def _fault(path: str) -> str:
    """Return why the system does not take a path, such as a name that is too long, "" where it does."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class CommandParser(argparse.ArgumentParser):
    """Parse as argparse does, and answer a mistake with the nearest known name and one line of usage.

    No argument may be empty: an empty path would mean the current folder, and an empty text nothing. A path that the
    system does not take is refused here, so that nobody else has to.
    """

    def __init__(self, *arguments: Any, **options: Any):
        """Make a parser whose arguments of the types int and float say what they expect."""
        super().__init__(*arguments, **options)
        self._lifted: list[argparse.Action] = []  # actions that are required but for the moment
        self.register("type", int, whole_number)
        self.register("type", float, any_number)

    def error(self, message: str) -> NoReturn:
        """Print the error, then one line of usage, and end with status 2."""
        self.exit(USAGE_ERROR, f"error: {visible(message)}\n{self._usage_line()}\n")

    def format_help(self) -> str:
        """Return the help. Options that are required are shown as such, also while bare words are looked for."""
        for action in self._lifted:
            action.required = True
        return super().format_help()

    def parse_known_args(  # type: ignore[override]  # argparse's overloads give the namespace's type back
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the arguments. An unknown option is told before anything that is missing."""
        arguments = sys.argv[1:] if args is None else list(args)
        for argument in arguments:
            if argument == "--":
                break
            self._require_known(argument.partition("=")[0])
        self._refuse_bare_words(arguments)
        return super().parse_known_args(arguments, namespace)

    def _refuse_bare_words(self, arguments: list[str]) -> None:
        """Refuse words that no option takes, with the option that may be meant, before anything that is missing."""
        if any(not action.option_strings for action in self._actions):
            return
        self._lifted = [action for action in self._actions if action.required]
        for action in self._lifted:
            action.required = False
        try:
            parsed, words = super().parse_known_args(arguments)
        finally:
            for action in self._lifted:
                action.required = True
            self._lifted = []
        if words and not words[0].startswith("-"):
            word = words[0]
            left = [one for one in self._actions if getattr(parsed, one.dest, one.default) == one.default]
            option = next((one.option_strings[0] for one in left if one.type in _READ), None)
            is_path = os.path.exists(word) or Path(word).suffix
            fix = f"; write {option} {shlex.quote(word)}" if option and is_path else ""
            self.error(f"{word!r} is no option{fix}")

    def _require_known(self, name: str) -> None:
        known = list(self._option_string_actions)
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            options = [option for option in known if option.startswith("--")]
            self.error(f"unknown option {name}; {did_you_mean(name, options)}".removesuffix("; ").rstrip())

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return an argument's values as its type reads them. Empty ones, such as an unset variable's, are refused."""
        if any(not text.strip() for text in arg_strings):
            fix = "name a file or a folder" if action.type in _PATHS else "give it a value"
            away = ", or leave it out" if action.option_strings and not action.required else ""
            raise argparse.ArgumentError(action, f"empty; {fix}{away}")
        for text in arg_strings if action.type in _PATHS else ():
            if fault := _fault(text):
                raise argparse.ArgumentError(action, f"{_cut(text)!r} is no path here ({fault}); name another")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not among an argument's choices."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        message = f"unknown value {str(value)!r}; {did_you_mean(str(value), known)}known are: {', '.join(known)}"
        raise argparse.ArgumentError(action, message)

    def _usage_line(self) -> str:
        required = []
        for action in self._actions:
            if not (action.required or action in self._lifted) or action.help is argparse.SUPPRESS:
                continue
            value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
            required.append(f"{action.option_strings[0]} {value}" if action.option_strings else value)
        return f"usage: {' '.join([self.prog, *required])} [options]; all options: {self.prog} --help"
