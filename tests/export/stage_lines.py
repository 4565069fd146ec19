"""The lines of standard error that tell an export's stages, apart from the others."""

import re

STAGE = re.compile(r" *(\d+\.\d) s: (.*)")


def stages(told: str) -> list[tuple[float, str]]:
    """Return the seconds and the name of each stage that standard error tells."""
    return [(float(found[1]), found[2]) for line in told.splitlines() if (found := STAGE.fullmatch(line))]


def lines_but_stages(told: str) -> list[str]:
    """Return the other lines of standard error."""
    return [line for line in told.splitlines() if not STAGE.fullmatch(line)]
