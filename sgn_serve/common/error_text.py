"""Put an error's message on one line, and tell what can be written. It needs nothing but Python, for every package."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SPACES = "\u00a0\u2002\u2003\u2009\u202f\u3000"
"""Spaces that names of files have. They are harmless, and Python calls them unprintable."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's message on one line, cut after `limit` characters, or its type where it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def system_words(error: OSError) -> str:
    """Return which file or what else the system refuses, and why."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


@contextmanager
def system_errors_as(kind: Callable[[str], Exception], fix: str) -> Iterator[None]:
    """Raise an error of another kind where the system refuses a file or a process. It is a decorator too.

    Args:
        kind: What a command line catches. It is called with the message.
        fix: The end of the message.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{system_words(error)}; {fix}") from error


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8. JSON can hold half a surrogate pair, which UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encodable(text: str) -> str:
    """Return a visible text as standard output takes it: what its encoding lacks, such as a byte, is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def say(line: str) -> None:
    """Print one line for people on standard error: an error, a warning or a note. Every such line goes through here.

    Names of files may be in it, and control characters in these, which are escaped: see visible.
    """
    print(visible(line), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Return a text without characters that move a terminal's cursor or change its colours: they are escaped."""
    return "".join(
        one if one.isprintable() or one in _SPACES else one.encode("unicode_escape").decode() for one in text
    )
