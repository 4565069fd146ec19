"""The end of the output: a line for each stage, so that a reader knows what ran, what did not, and why."""

from typing import Any

from release.gpu.record import SAYS

LINE_LENGTH = 240


def summary(content: dict[str, Any]) -> list[str]:
    """Return a line a stage, in order.

    content: of gpu.json
    """
    return [line(name, stage) for name, stage in content["stages"].items()]


def line(name: str, stage: dict[str, Any]) -> str:
    """Return what became of a stage: its result, and why there is none or no more."""
    parts = [stage["figures"].get(SAYS, ""), stage["reason"], stage["figures"].get("problem", "")]
    took = f" ({stage['seconds']:.0f} s)" if "seconds" in stage else ""
    text = f"{name}: {stage['status']}{took}: {'; '.join(part for part in parts if part)}".rstrip(": ")
    return text if len(text) <= LINE_LENGTH else text[: LINE_LENGTH - 3] + "..."
