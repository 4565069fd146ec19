"""Read the measured figures that stand beside a graph, and check that they are of this graph.

`python -m export` writes them, for the bundled model and for any other. They are the report of training.evaluate
without its marks of single pictures. The report itself is read too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import GRAPH_SHA256_FIELD, MAX_FIGURES_BYTES, SHA256_KEY, figures_path, same_eps
from sgn_serve.inference.graph import Graph
from sgn_serve.serving.companions import read_companion

_ROWS_OF_GRAPH = "exported graph"
"""State of the rows that were measured on an exported graph."""


@dataclass(frozen=True)
class Figures:
    """The figures beside a graph.

    Attributes:
        values: The file's content. Empty where there is no file, or where it is not of this graph.
        note: One line, with the fix, that says why a file is not used. None where it is, or where there is none.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


def read_figures(graph: Graph) -> Figures:
    """Read the figures beside a graph.

    Args:
        graph: The graph.

    Returns:
        The figures, or the reason why none are shown.
    """
    path = figures_path(graph.path)
    try:
        values = json.loads(read_companion(path, MAX_FIGURES_BYTES).decode())
    except FileNotFoundError:
        return Figures()
    except (OSError, ValueError, RecursionError) as error:
        return Figures(note=_note(path.name, f"cannot be read ({one_line(error)})", "export the graph again"))
    if not isinstance(values, dict) or not isinstance(values.get("setting"), dict):
        return Figures(note=_note(path.name, "holds no figures of a graph", "take it away, or export the graph again"))
    mismatch = _mismatch(values, graph)
    return Figures(note=_note(path.name, *mismatch)) if mismatch else Figures(values)


def _note(name: str, reason: str, fix: str) -> str:
    return f"{name}: {reason}, so no figures are shown; {fix}"


def _mismatch(values: Mapping[str, Any], graph: Graph) -> tuple[str, str] | None:
    """Return why figures are not of a graph, and the fix. None where they are."""
    setting, own = values["setting"], graph.description
    measured_sha256 = str(setting.get(SHA256_KEY))
    if measured_sha256 != own.sha256:
        return (
            f"the figures are of another checkpoint ({measured_sha256[:12]}) than the graph ({own.sha256[:12]})",
            "judge the graph's checkpoint with python -m training.evaluate, and export it again",
        )
    eps, trained = setting.get("eps"), own.checkpoint.get("epsilon")
    if _is_number(eps) and _is_number(trained) and trained and not same_eps(eps, trained):
        return (
            f"it was measured with eps {eps:.4g}, but the network was trained for {trained:.4g}",
            f"judge it with python -m training.evaluate --eps {trained:.4g}, and export it again",
        )
    if any(sha256 != graph.file_sha256 for sha256 in _graphs_of(values)):
        return "the graph has changed since the figures were put beside it", "export it again"
    return None


def _graphs_of(values: Mapping[str, Any]) -> list[str]:
    """Return the hashes of the graphs that figures name: that of the export, and those that rows were measured on."""
    found = [values.get(GRAPH_SHA256_FIELD)]
    rows = values.get("rows")
    for row in rows if isinstance(rows, list) else []:
        try:
            if row["id"]["state"] == _ROWS_OF_GRAPH:
                found.append(row["attack"].get(GRAPH_SHA256_FIELD))
        except (AttributeError, KeyError, TypeError):  # the model card tells what is wrong with a row
            continue
    return [sha256 for sha256 in found if isinstance(sha256, str)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
