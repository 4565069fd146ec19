"""Write Markdown tables of words and of figures."""

from collections.abc import Iterable, Sequence

from sgn_serve.common.markdown import table


def words_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned to the left."""
    return table(header, rows, "l" * len(header))


def figures_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns, but for the first, are aligned to the right."""
    return table(header, rows, "l" + "r" * (len(header) - 1))


def cell(text: str) -> str:
    """Return a text as a cell of a table: on one line, without marks of HTML and of tables."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
