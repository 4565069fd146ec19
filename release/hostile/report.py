"""Hold the measured figures against the bounds, and show them as tables."""

from collections.abc import Iterator
from typing import Any

from release.hostile.fuzz import CROWDS
from sgn_serve.common import markdown

MEMORY_MB = 300.0
ANSWER_SECONDS = 5.0
SMALL_SECONDS = 1.0
"""Bounds that the service promises: memory beyond idle, the longest answer, the wait of a small picture."""
BOUNDED = ("16 in one request", "16 requests", "32 requests")
"""Ways to send many files at a time for which the service promises every bound."""
TOGETHER = (*BOUNDED, *(f"{crowd} requests" for crowd in CROWDS))
"""All ways to send many files at a time. For the crowds only memory is bounded, because sending and refusing gigabytes
takes the two cores seconds."""
NAMED = ("alone", "sixteen in one request", "sixteen requests")


def exceeded(result: dict[str, Any]) -> list[str]:
    """Return a line for each bound that a format or an input by name exceeds, and for each with a fault."""
    lines = [line for name, row in result["formats"].items() for line in _exceeded_by_format(name, row)]
    for name, row in result["named"].get("now", {"rows": {}})["rows"].items():
        costs = [row[trial] for trial in NAMED if trial in row]
        worst = [max(cost[key] for cost in costs) for key in ("above_idle", "seconds", "small_seconds")]
        lines += _exceeded(name, sum(cost["faults"] for cost in costs), "", worst)
        lines += _failed(name, sum(cost["small_failed"] for cost in costs))
    return lines


def _exceeded_by_format(name: str, row: dict[str, Any]) -> Iterator[str]:
    faults = row["faults"] + sum(cost["faults"] for cost in row["together"].values())
    first = f"; the first: {row['fault_recipes'][0]}" if row["fault_recipes"] else ""
    yield from _exceeded(name, faults, first, [memory(row), seconds(row), small_seconds(row)])
    yield from _failed(name, row["small_failed"] + sum(cost["small_failed"] for cost in row["together"].values()))


def _failed(name: str, small: int) -> Iterator[str]:
    if small:
        yield f"{name}: {small} small pictures beside it were neither answered nor told when to come back"


def _exceeded(name: str, faults: int, first: str, worst: list[float]) -> Iterator[str]:
    if faults:
        yield f"{name}: {faults} answers were the server's fault{first}"
    bounds = (MEMORY_MB, ANSWER_SECONDS, SMALL_SECONDS)
    for what, value, bound in zip(
        ("memory beyond idle, MB", "longest answer, s", "wait of a small picture, s"), worst, bounds, strict=True
    ):
        if value > bound:
            yield f"{name}: {what}: {value:g}, more than {bound:g}"


def memory(row: dict[str, Any]) -> float:
    """Return the largest memory of the server beyond idle while a format was tried, in megabytes."""
    return max(row["above_idle"], *(cost["above_idle"] for cost in row["together"].values()), 0.0)


def seconds(row: dict[str, Any]) -> float:
    """Return the longest answer, alone or with so many others that it is bounded."""
    return max(row["worst_seconds"]["seconds"], *(cost["seconds"] for cost in _bounded(row)), 0.0)


def small_seconds(row: dict[str, Any]) -> float:
    """Return how long a small picture waited at most, beside so many others that its wait is bounded."""
    return max(row["small_seconds"], *(cost["small_seconds"] for cost in _bounded(row)), 0.0)


def _bounded(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [cost for kind, cost in row["together"].items() if kind in BOUNDED]


def table(result: dict[str, Any]) -> str:
    """Return the figures of every format as a Markdown table."""
    header = ["format", "files", "answered", "refused", "5xx", "memory alone, MB", "memory, MB"]
    header += ["answer alone, s", "answer, s", "small picture, s"]
    rows = []
    for name, row in result["formats"].items():
        answered = row["statuses"].get("200", 0)
        rows.append(
            [
                name,
                f"{row['files']:,}",
                f"{answered:,}",
                f"{row['files'] - answered - row['faults']:,}",
                str(row["faults"] + sum(cost["faults"] for cost in row["together"].values())),
                f"{row['worst_megabytes']['megabytes']:,.0f}",
                f"{memory(row):,.0f}",
                f"{row['worst_seconds']['seconds']:.2f}",
                f"{seconds(row):.2f}",
                f"{small_seconds(row):.2f}",
            ]
        )
    return markdown.table(header, rows, "l" + "r" * (len(header) - 1))


def together_table(result: dict[str, Any]) -> str:
    """Return what the worst files of every format cost many at a time, as a Markdown table.

    Each cell has the longest answer in seconds, and the share of the requests that were told to come back later.
    """
    header = ["format", *TOGETHER, "memory, MB", "small picture, s", "small pictures told to come back"]
    rows = []
    for name, row in result["formats"].items():
        costs = [row["together"].get(kind) for kind in TOGETHER]
        known = [cost for cost in costs if cost is not None]
        worst = [f"{max((cost[key] for cost in known), default=0):{form}}" for key, form in _WORST]
        refused = sum(cost["small_refused"] for cost in known)
        rows.append([name, *map(_seconds_and_share, costs), *worst, str(refused)])
    return markdown.table(header, rows, "l" + "r" * (len(header) - 1))


def profile_table(result: dict[str, Any]) -> str:
    """Return what the cores did during the longest answer of each crowd, as a Markdown table."""
    kinds = [f"{crowd} requests" for crowd in CROWDS]
    header = ["format"]
    for kind in kinds:
        header += [f"{kind}: longest answer, s", "cores of the server", "cores of the sender"]
    rows = []
    for name, row in result["formats"].items():
        cells = [name]
        for cost in (row["together"].get(kind, {}) for kind in kinds):
            for key, form in (("seconds", ".1f"), ("server_cores", ".2f"), ("sender_cores", ".2f")):
                cells.append(f"{cost[key]:{form}}" if key in cost else "-")
        rows.append(cells)
    return markdown.table(header, rows, "l" + "r" * (len(header) - 1))


_WORST = (("above_idle", ".0f"), ("small_seconds", ".2f"))


def _seconds_and_share(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return "-"
    share = cost["statuses"].get("503", 0) / sum(cost["statuses"].values())
    return f"{cost['seconds']:.2f} s, {share:.0%}"


def named_table(result: dict[str, Any]) -> str:
    """Return the hostile inputs by name as a Markdown table: what each cost before, and what it costs now.

    Each figure is the worst of the three ways in which an input was sent. "over" marks a server that was ended because
    it took more memory than it might, or that did not answer in time. Nothing measured gives an empty text.
    """
    sides = [side for side in ("before", "now") if result["named"].get(side)]
    if not sides:
        return ""
    header = ["input", "bytes"]
    for what in ("memory, MB", "answer, s", "small picture, s"):
        header += [f"{what}, {side}" for side in sides]
    rows = []
    for name in result["named"][sides[-1]]["rows"]:
        cells: list[str] = []
        for key, form in (("above_idle", ",.0f"), ("seconds", ".2f"), ("small_seconds", ".2f")):
            for side in sides:
                row = result["named"][side]["rows"].get(name, {})
                costs = [row[trial] for trial in NAMED if trial in row]
                ended = any(cost["killed"] or "0" in cost["statuses"] for cost in costs)
                mark = "over " if ended and costs else ""
                cells.append(mark + format(max(cost[key] for cost in costs), form) if costs else "-")
        size = next(result["named"][side]["rows"][name]["bytes"] for side in reversed(sides))
        rows.append([name, f"{size:,}", *cells])
    return markdown.table(header, rows, "l" + "r" * (len(header) - 1))
