"""Summarise a run with one line for each stage: whether it ran, its result, and why there is no more."""

from typing import Any

from release.gpu.record import SAYS

LINE_LENGTH = 240
"""Characters of a line at most; a longer one is cut."""


def summary(content: dict[str, Any]) -> list[str]:
    """Return one line for each stage, in order.

    Args:
        content: The content of gpu.json.
    """
    return [line(name, stage) for name, stage in content["stages"].items()]


def line(name: str, stage: dict[str, Any]) -> str:
    """Return a stage's line: name, status, seconds, result, and the reason for no result or an incomplete one.

    Args:
        name: The stage's name.
        stage: Its record.
    """
    parts = [stage["figures"].get(SAYS, ""), stage["reason"], stage["figures"].get("problem", "")]
    took = f" ({stage['seconds']:.0f} s)" if "seconds" in stage else ""
    text = f"{name}: {stage['status']}{took}: {'; '.join(part for part in parts if part)}".rstrip(": ")
    return text if len(text) <= LINE_LENGTH else text[: LINE_LENGTH - 3] + "..."
