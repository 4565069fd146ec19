"""Describe the settings of the service."""

from dataclasses import MISSING, fields

from docs.generator.markdown import cell, table
from sgn_serve.settings import Settings


def settings_table() -> str:
    """Return a table of all settings."""
    meanings = _meanings()
    rows = [
        (f"`{item.metadata['variable']}`", cell(meanings[item.metadata["variable"]]), setting_default(item.metadata["variable"]))
        for item in fields(Settings)
    ]
    return table(("variable", "meaning", "default"), rows)


def setting_default(variable: str) -> str:
    """Return a setting's default, as a sentence shows it.

    Raises:
        KeyError: a variable that is no setting
    """
    item = {item.metadata["variable"]: item for item in fields(Settings)}[variable]
    if item.default is MISSING:
        return ""
    if isinstance(item.default, bool):
        return f"`{str(item.default).lower()}`"
    if isinstance(item.default, int | float):
        return f"{item.default:g}" if isinstance(item.default, float) else f"{item.default:,}"
    return f"`{item.default}`"


def _meanings() -> dict[str, str]:
    import re

    parts = re.split(r"^\s+\w+\s+(SGN_\w+) ", Settings.__doc__ or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
