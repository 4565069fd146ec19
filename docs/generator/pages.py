"""Fill in the marked places of a page."""

import re
from pathlib import Path

from docs.generator.figures import figure
from docs.generator.inserts import INSERTS

ROOT = Path(__file__).parents[2]
INSERT = re.compile(r"^<!-- insert: ([\w-]+) -->$", re.MULTILINE)
FIGURE = re.compile(r"\{\{ ([^{}]+) \}\}")


class PageError(ValueError):
    """A marked place that names nothing; the message names the place."""


def fill(text: str) -> str:
    """Return a page's text with its inserts and figures.

    Raises:
        PageError: a name that is unknown
    """
    return INSERT.sub(_insert, FIGURE.sub(_figure, text))


def _insert(match: re.Match[str]) -> str:
    if match[1] not in INSERTS:
        raise PageError(f"no insert is called {match[1]!r}; there are: {', '.join(INSERTS)}")
    return INSERTS[match[1]]()


def _figure(match: re.Match[str]) -> str:
    try:
        return figure(match[1])
    except KeyError as error:
        raise PageError(f"{{{{ {match[1]} }}}} is no figure: {error}") from error
