"""Write Markdown tables."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Return a Markdown table.

    Args:
        header: the titles of the columns
        rows: the cells, as many as there are titles in each row
        numbers: whether every column but the first is aligned to the right
    """
    alignment = ["---"] + [("---:" if numbers else "---")] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, alignment, *rows))


def cell(text: str) -> str:
    """Return a text that does not end its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
