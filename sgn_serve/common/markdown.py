"""Write Markdown tables."""

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "---:"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """Return a Markdown table, without a newline at its end.

    Args:
        header: Titles of the columns.
        rows: One text for each column. A text must not contain "|" or a newline.
        align: A letter for each column: "l" aligns it left, "r" right.

    Raises:
        ValueError: A row, or `align`, has another number of columns than the header.
    """
    lines = [list(header), [_RULES[side] for side in align], *map(list, rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"every row of this table must have {len(header)} columns: {lines}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
