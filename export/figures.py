"""Put the measured figures of a checkpoint beside the graph that was exported from it.

They are in a file of the graph's name, model.json beside model.onnx, and not among the graph's metadata. An exported
graph can be attacked too, and its hash stands among the figures, so the figures must not change the graph. They can
also be renewed without a new graph, and are read without an engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import ExportError
from sgn_serve.common.graph_format import (
    FIGURES_FORMAT,
    GRAPH_SHA256_FIELD,
    MAX_FIGURES_BYTES,
    SHA256_KEY,
    figures_path,
    file_sha256,
    same_eps,
)
from training.checkpoint import CheckpointInfo
from training.common import run_files
from training.common.files import write_atomically
from training.evaluate.options import default_folder
from training.evaluate.report import BLOCK_EFFECT, FORMAT, Report, saved_rows
from training.foreign.kind import is_foreign


class FiguresError(ExportError):
    """An evaluation that cannot go with a graph; the message names the file and the fix."""


@dataclass(frozen=True)
class Evaluation:
    """A report of training.evaluate, read and checked against the checkpoint.

    Attributes:
        path: Its file.
        content: Its JSON.
    """

    path: Path
    content: Mapping[str, Any]


def find_evaluation(checkpoint: Path, info: CheckpointInfo, named: Path | None = None) -> Evaluation | None:
    """Return the evaluation of a checkpoint.

    Args:
        checkpoint: The checkpoint.
        info: Its description.
        named: The report's file, or its folder. None for the one that training.evaluate wrote beside the checkpoint,
            or into the folder report/ there.

    Returns:
        The evaluation, None where there is none and none was named.

    Raises:
        FiguresError: The evaluation is not there, cannot be read, or is of another checkpoint or epsilon, or was not
            finished.
    """
    if named is not None:
        return _read(named / run_files.REPORT if named.is_dir() else named, checkpoint, info)
    folder = default_folder(checkpoint)
    errors = []
    for path in (folder / run_files.REPORT, folder / "report" / run_files.REPORT):
        try:
            if path.is_file():
                return _read(path, checkpoint, info)
        except FiguresError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def _read(path: Path, checkpoint: Path, info: CheckpointInfo) -> Evaluation:
    """Read a report and check that it is of the checkpoint.

    Raises:
        FiguresError: It is not.
    """
    fix = judge_command(checkpoint)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise FiguresError(f"{path}: cannot be read ({error.strerror}); write it with: {fix}") from None
    except (ValueError, RecursionError):
        raise FiguresError(f"{path}: is no JSON; write it again with: {fix}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT or not isinstance(content.get("setting"), dict):
        raise FiguresError(f"{path}: its JSON does not say format {FORMAT!r}; write it again with: {fix}")
    setting = content["setting"]
    measured, own = str(setting.get(SHA256_KEY)), file_sha256(checkpoint)
    if measured != own:
        raise FiguresError(
            f"{path}: is of another checkpoint ({measured[:12]}) than {checkpoint} ({own[:12]}); write it again with: "
            f"{fix}"
        )
    eps = setting.get("eps")
    if isinstance(eps, int | float) and info.epsilon and not same_eps(eps, info.epsilon):
        raise FiguresError(
            f"{path}: was measured with eps {eps:.4g}, but the network was trained for {info.epsilon:.4g}; write it "
            f"again with: {fix} --eps {info.epsilon:.4g}"
        )
    if content.get("robustness_likely_overestimated") is None:  # said at the end, and no attack may have run before
        about = content.get("about")
        began = about.get("command") if isinstance(about, dict) else None
        raise FiguresError(f"{path}: the evaluation was not finished; the same command goes on with it: {began or fix}")
    return Evaluation(path, content)


def judge_command(checkpoint: Path) -> str:
    """Return the command that makes an evaluation of a checkpoint, or of weights of another program."""
    data = "--dataset image-folder --data-root DIR" if is_foreign(checkpoint) else "--data-root DIR"
    return f"python -m training.evaluate --ckpt {checkpoint} {data}"


def figures_of(report: Mapping[str, Any], graph_sha256: str) -> dict[str, Any]:
    """Return the figures that go beside a graph: a report without its marks of single pictures.

    Rows that were measured on another exported graph are left out.

    Args:
        report: The content of an evaluation.json.
        graph_sha256: SHA-256 of the graph's file.

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError: The report is not what Report.as_dict writes.
    """
    rows = {
        one: row
        for one, row in saved_rows(report).items()
        if one.state != "exported graph" or row.attack.get(GRAPH_SHA256_FIELD) == graph_sha256
    }
    counted = Report(dict(report["setting"]), rows=rows).as_dict()
    kept = ("id", "title", "accuracy", "attack")
    return {
        "format": FIGURES_FORMAT,
        GRAPH_SHA256_FIELD: graph_sha256,
        **{name: counted[name] for name in ("headline", "headline_interval_95")},
        "robustness_likely_overestimated": report["robustness_likely_overestimated"],
        **{name: counted[name] for name in ("lowest", "auto_attack")},
        "rows": [{name: row[name] for name in kept} for row in counted["rows"]],
        **{name: report[name] for name in (BLOCK_EFFECT, "checklist", "setting", "about", "earlier")},
    }


def check_place(graph: Path) -> None:
    """Check, before any work, that the file of figures beside a graph may be written.

    Raises:
        FiguresError: Something else stands in its place.
    """
    path = figures_path(graph)
    if path.exists() and _saved(path).get("format") != FIGURES_FORMAT:
        raise FiguresError(
            f"{path}: is no file of figures, and those of {graph.name} would replace it; pass another PATH, or move it"
        )


def write_figures(evaluation: Evaluation, graph: Path) -> tuple[Path, int]:
    """Write the figures of an evaluation beside a graph.

    Returns:
        Their file, and the number of rows that are left out because they were measured on another exported graph.

    Raises:
        FiguresError: The report cannot be read, or its figures are too many.
        WriteError: The file cannot be written.
    """
    try:
        figures = figures_of(evaluation.content, file_sha256(graph))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FiguresError(
            f"{evaluation.path}: a report whose rows cannot be read ({type(error).__name__}: {error}); "
            "judge the checkpoint again"
        ) from None
    path, content = figures_path(graph), (json.dumps(figures, indent=1) + "\n").encode()
    if len(content) > MAX_FIGURES_BYTES:
        raise FiguresError(f"{path}: the figures take more than {MAX_FIGURES_BYTES} bytes; judge with fewer attacks")
    write_atomically(path, content)
    return path, len(evaluation.content["rows"]) - len(figures["rows"])


def stale_figures(graph: Path) -> Path | None:
    """Return the file of figures beside a graph, if it was written for another state of the graph."""
    path = figures_path(graph)
    saved = _saved(path)
    if saved.get("format") != FIGURES_FORMAT or saved.get(GRAPH_SHA256_FIELD) == file_sha256(graph):
        return None
    return path


def _saved(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, an empty one where it holds none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
